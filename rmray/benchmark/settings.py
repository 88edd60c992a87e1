"""What a run of a benchmark is told, the same for every row of it. Made by the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmray.errors import ConfigError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """threads: of torch, for every row. rounds: timed, after one that is not. seed: of weights, tokens and orders.

    rows: names of those to run, in this order. dtype: float32, or bfloat16 (training: autocast; scoring: the weights).
    """

    threads: int
    rows: tuple[str, ...]
    rounds: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(Settings):
    """batch_pairs: of one optimizer step, on every side. num_pairs: of one run; whole steps.

    max_micro_batch_tokens: of rmray's forwards; None for what `auto` gives. checkpointing: of every row but the one
    that always has it.
    """

    num_pairs: int = 64
    batch_pairs: int = 8
    lr: float = 1e-4
    weight_decay: float = 0.01
    max_micro_batch_tokens: int | None = None
    checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings(Settings):
    """num_completions: of one run. max_batch_tokens: of a forward, padding included. padded_batch_tokens: of the padded
    row; None for the fastest of several, which takes a run of each to find."""

    num_completions: int = 128
    max_batch_tokens: int = 16384
    padded_batch_tokens: int | None = None
    pipeline_batch: int = 8


def choose_rows(known: Sequence[str], rows: Sequence[str] | None, without: Sequence[str] | None) -> tuple[str, ...]:
    """The rows asked for, in the table's order. Raises ConfigError for a name that is none, and where none is left."""
    for name in (*(rows or ()), *(without or ())):
        if name not in known:
            raise ConfigError(f"{name!r} is no row", where="--rows, --without", why=f"rows: {', '.join(known)}")
    chosen = tuple(name for name in known if (not rows or name in rows) and name not in (without or ()))
    if not chosen:
        raise ConfigError("no row is left to run", where="--rows, --without")
    return chosen


def require(module: str, needed_for: str) -> Any:
    """Import an optional package. Raises ConfigError with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{needed_for} needs {module.partition('.')[0]}, which cannot be imported",
            why=str(error),
            next_step="pip install 'rmray[benchmark]'; a row can be left out (--without)",
        ) from error
