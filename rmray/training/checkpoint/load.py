"""Give an engine the optimizer's state of a checkpoint, at any world size and ZeRO stage. Called by `Checkpoint`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from rmray.errors import BundleError
from rmray.training.engine import Engine


def load_moments(engine: Engine, shards: Iterable[Path], updates: int, *, where: str) -> None:
    """shards: the optimizer's files. updates: optimizer steps applied when they were written. Raises BundleError where
    they are not of the engine's model."""

    def read(name: str) -> torch.Tensor:
        with safe_open(owner[name], framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(name)
            return tensor

    try:
        owner = {key: path for path in shards for key in _keys(path)}
        engine.load_moments(read, updates)
    except (KeyError, SafetensorError) as error:
        raise BundleError(
            "the checkpoint does not hold this model's optimizer state",
            where=where,
            why=f"{type(error).__name__}: {error}",
            next_step="resume with the model that the run was started with, or start again with --overwrite",
        ) from error


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as tensors:
        return list(tensors.keys())
