"""What a checkpoint consists of, how its files are named and which ones are kept. Pure; used by all of `checkpoint`."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

MAX_SHARD_BYTES = 2**29
BYTES_PER_VALUE = 4
MODEL, STATE, MANIFEST, COMPLETE = "model", "state.json", "manifest.json", "COMPLETE"
INDEX = f"{MODEL}/model.safetensors.index.json"
OPTIMIZER = "optimizer-"

_NAME = re.compile(r"step-(\d{8,})")
_WORK_PREFIX = ".step-"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stands. step: the next step to run. updates: optimizer steps applied, skipped ones left out.

    epoch: of that step. skipped_in_a_row: non-finite steps just before. identity: what the run is. evaluation: held-out
    figures of exactly this state, None where it was not evaluated. memory: what hooks remember, as JSON. finished: the
    run is complete.
    """

    step: int
    epoch: int
    updates: int
    skipped_in_a_row: int
    seed: int
    identity: dict[str, Any]
    evaluation: dict[str, Any] | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest tells of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at saving one step. token: tells it from every other try."""

    step: int
    token: str

    @property
    def work(self) -> str:
        """The folder that this attempt has to itself."""
        return f".{checkpoint_name(self.step)}.{self.token}"

    def part(self, rank: int) -> str:
        """Where a rank reports what it wrote."""
        return f"{self.work}/rank-{rank:05d}.json"

    def folder(self, *, renames: bool) -> str:
        """Where the checkpoint's files are written. renames: the file system does; else it is their final place."""
        return f"{self.work}/files" if renames else checkpoint_name(self.step)


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a checkpoint's folder; None for any other folder."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def is_work(name: str) -> bool:
    """Whether a folder is an attempt's own."""
    return name.startswith(_WORK_PREFIX)


def is_layout(name: str) -> bool:
    """Whether a file, named within a checkpoint's folder, may be of a checkpoint."""
    return name in (STATE, MANIFEST, COMPLETE) or name.startswith((f"{MODEL}/", OPTIMIZER))


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Cut tensors (name -> bytes) into consecutive shards of at most `max_bytes`; a larger tensor is alone in one."""
    shards: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not shards or filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def plan_model(sizes: Mapping[str, int], max_shard_bytes: int) -> tuple[dict[str, list[str]], str | None]:
    """The model's files with their tensors, and the text of the index of several; sizes: bytes of each tensor."""
    shards = plan_shards(sizes, max_shard_bytes)
    if len(shards) == 1:
        return {f"{MODEL}/model.safetensors": shards[0]}, None
    files = {shard_name("model", i, len(shards)): shard for i, shard in enumerate(shards)}
    owner = {tensor: name for name, shard in files.items() for tensor in shard}
    index = json.dumps({"metadata": {"total_size": sum(sizes.values())}, "weight_map": owner}, indent=1)
    return {f"{MODEL}/{name}": shard for name, shard in files.items()}, index


def plan_moments(sizes: Mapping[str, int], max_shard_bytes: int) -> dict[str, list[str]]:
    """The optimizer's files with their tensors. sizes: bytes of each moment."""
    shards = plan_shards(sizes, max_shard_bytes)
    return {shard_name("optimizer", i, len(shards)): shard for i, shard in enumerate(shards)}


def shard_name(kind: str, number: int, of: int) -> str:
    return f"{kind}-{number + 1:05d}-of-{of:05d}.safetensors"


def manifest_text(facts: Mapping[str, Facts]) -> str:
    return json.dumps({"files": {name: asdict(fact) for name, fact in facts.items()}}, indent=1, sort_keys=True)


def parse_manifest(text: str) -> dict[str, Facts]:
    """Raises ValueError, TypeError or KeyError where it is none, or names a file outside of its checkpoint."""
    facts = {name: Facts(**fact) for name, fact in json.loads(text)["files"].items()}
    for name in facts:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{MANIFEST} names {name!r}")
    return facts


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rank_by_quality(evaluations: Mapping[int, Mapping[str, Any] | None]) -> list[int]:
    """Steps by held-out accuracy, best first; equal ones by lower loss, then earlier; those without are left out."""
    judged = []
    for step, figures in evaluations.items():
        accuracy, loss = (_number((figures or {}).get(name)) for name in ("eval_accuracy", "eval_loss"))
        if accuracy is not None:
            judged.append((-accuracy, math.inf if loss is None else loss, step))
    return [step for *_, step in sorted(judged)]


def superseded(steps: Sequence[int], saved: int, *, keep: int, best: int | None) -> list[int]:
    """Those to delete once `saved` is there: all but the `keep` newest up to it and the best one.

    Later ones are of a future that was given up: the run went on from an earlier one because they are damaged.
    """
    newest = sorted((step for step in steps if step <= saved), reverse=True)[:keep]
    return [step for step in steps if step not in newest and (step != best or step > saved)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
