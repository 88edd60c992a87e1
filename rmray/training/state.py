"""Checkpoints that load at any world size, hold no pickle, and are whole or absent. Called by the loop and `trainer`.

RUN/checkpoints/step-00000050/
    model/                                  as Hugging Face lays a model out, float32: config, tokenizer, safetensors
    optimizer-00001-of-00002.safetensors    AdamW's moments, `PARAMETER.exp_avg`, whole tensors
    state.json                              step, updates, and what the run is (see `identity`)
    manifest.json                           size and sha256 of every other file, written last

Everything is written under a temporary name which is renamed at the end. Files are cut into shards of bounded size and
the ranks write them in turn, so that no process holds a whole large model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rmray.errors import BundleError
from rmray.training.engine import MOMENTS, Engine

MAX_SHARD_BYTES = 2 * 2**30
BYTES_PER_VALUE = 4
MODEL, STATE, MANIFEST = "model", "state.json", "manifest.json"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stands. step: the next step to run. updates: optimizer steps applied, skipped ones left out.

    skipped_in_a_row: non-finite steps just before. identity: what the run is, as `identity` gives it.
    """

    step: int
    updates: int
    skipped_in_a_row: int
    identity: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files were all found as its manifest says."""

    directory: Path
    state: TrainingState

    @property
    def model_dir(self) -> Path:
        return self.directory / MODEL


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


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def save_checkpoint(
    engine: Engine,
    checkpoints: Path,
    state: TrainingState,
    *,
    save_model_extras: Callable[[Path], None],
    keep: int,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a checkpoint of all ranks together and delete all but the `keep` newest up to it; its directory.

    Collective. save_model_extras: writes what stands beside the weights (config, tokenizer) into a directory, on
    rank 0. checkpoints: a directory that every rank sees. Raises OSError on every rank where the storage fails one.
    """
    ranks = engine.ranks
    final = checkpoints / checkpoint_name(state.step)
    temporary = checkpoints / f".{final.name}.unfinished"
    if ranks.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / MODEL).mkdir(parents=True)
    ranks.barrier()
    faults: list[str] = []
    written = _write_weights(engine, temporary, max_shard_bytes, faults)
    written |= _write_moments(engine, temporary, max_shard_bytes, faults)
    everything = {name: facts for part in ranks.gather(written) for name, facts in part.items()}
    _raise_together(engine, final, faults)
    if ranks.rank == 0:
        try:
            save_model_extras(temporary / MODEL)
            _finish(temporary, final, state, everything)
            for old in _superseded(list_checkpoints(checkpoints), final, keep):
                shutil.rmtree(old)
        except OSError as error:
            faults.append(str(error))
    _raise_together(engine, final, faults)
    return final


def _finish(temporary: Path, final: Path, state: TrainingState, hashed: Mapping[str, Any]) -> None:
    """Add the state and the manifest, and give the checkpoint its name. hashed: facts of the files known already."""
    (temporary / STATE).write_text(json.dumps(asdict(state), indent=1))
    names = (str(path.relative_to(temporary)) for path in sorted(temporary.rglob("*")) if path.is_file())
    files = {name: hashed.get(name) or _facts(temporary / name) for name in names}
    (temporary / MANIFEST).write_text(json.dumps({"files": files}, indent=1, sort_keys=True))
    _sync(temporary / MANIFEST)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(final.parent)


def _superseded(checkpoints: list[Path], saved: Path, keep: int) -> list[Path]:
    """Those to delete once `saved` is there. checkpoints: newest first.

    Later ones are of a future that was given up: the run went on from an earlier one because they are damaged.
    """
    here = checkpoints.index(saved)
    return checkpoints[:here] + checkpoints[here + keep :]


def _raise_together(engine: Engine, where: Path, faults: list[str]) -> None:
    """A rank that raised alone would leave the others waiting for it."""
    everywhere = [fault for part in engine.ranks.gather(faults) for fault in part]
    if everywhere:
        raise OSError(f"{where}: the checkpoint could not be written: {everywhere[0]}")


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Directories of finished checkpoints, newest first; whether their files are sound is not looked at."""
    return sorted((p for p in checkpoints.glob("step-*") if p.is_dir()), reverse=True)


def newest_checkpoint(checkpoints: Path, *, warn: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
    """The newest checkpoint whose every file is as its manifest says, or None. warn: is told of each damaged one."""
    for directory in list_checkpoints(checkpoints):
        try:
            return open_checkpoint(directory)
        except BundleError as error:
            warn(str(error))
    return None


def open_checkpoint(directory: Path, *, verify: bool = True) -> Checkpoint:
    """Check sizes and hashes of a checkpoint's files. Raises BundleError, which names the first one at fault.

    verify: False where another rank has just checked them.
    """
    try:
        files = _read_json(directory / MANIFEST)["files"]
        for name, facts in files.items() if verify else ():
            _check(directory / name, facts)
        state = TrainingState(**_read_json(directory / STATE))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            "the checkpoint is damaged",
            where=str(directory),
            why=f"{type(error).__name__}: {error}",
            next_step="an older checkpoint is used where there is one; this one may be deleted",
        ) from error
    return Checkpoint(directory, state)


def load_moments(engine: Engine, checkpoint: Checkpoint) -> None:
    """Give an engine, whose weights were loaded from `checkpoint.model_dir`, the optimizer's state."""
    files = sorted(checkpoint.directory.glob("optimizer-*.safetensors"))
    where = {key: path for path in files for key in _keys(path)}

    def read(name: str) -> torch.Tensor:
        with safe_open(where[name], framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(name)
            return tensor

    try:
        engine.load_moments(read, checkpoint.state.updates)
    except (KeyError, SafetensorError) as error:
        raise BundleError(
            "the checkpoint does not hold this model's optimizer state",
            where=str(checkpoint.directory),
            why=f"{type(error).__name__}: {error}",
            next_step="resume with the model that the run was started with, or start again with --overwrite",
        ) from error


def _write_weights(engine: Engine, directory: Path, max_shard_bytes: int, faults: list[str]) -> dict[str, Any]:
    """This rank's shards of the model; what was written, by name. Rank 0 writes the index of several shards."""
    sizes = {name: BYTES_PER_VALUE * size for name, size in engine.tensor_sizes().items()}
    shards = plan_shards(sizes, max_shard_bytes)
    one = len(shards) == 1
    names = ["model.safetensors"] if one else [_shard_name("model", i, len(shards)) for i in range(len(shards))]
    if engine.ranks.rank == 0 and not one:
        owner = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": owner}
        (directory / MODEL / INDEX).write_text(json.dumps(index, indent=1))
    planned = dict(zip((f"{MODEL}/{name}" for name in names), shards, strict=True))
    return _write_shards(engine, directory, planned, engine.weights(), faults)


def _write_moments(engine: Engine, directory: Path, max_shard_bytes: int, faults: list[str]) -> dict[str, Any]:
    if not engine.updates:
        return {}
    trained, model_sizes = engine.trained_names(), engine.tensor_sizes()
    sizes = {f"{n}.{key}": BYTES_PER_VALUE * size for n, size in model_sizes.items() if n in trained for key in MOMENTS}
    shards = plan_shards(sizes, max_shard_bytes)
    names = [_shard_name("optimizer", i, len(shards)) for i in range(len(shards))]
    return _write_shards(engine, directory, dict(zip(names, shards, strict=True)), engine.moments(), faults)


def _write_shards(
    engine: Engine,
    directory: Path,
    shards: Mapping[str, list[str]],
    tensors: Iterable[tuple[str, torch.Tensor]],
    faults: list[str],
) -> dict[str, Any]:
    """Write every n-th shard, whose tensors come in the order of the shards. What this rank wrote, by name.

    A fault is kept for later: until the last tensor has come, the other ranks need this one to gather it.
    """
    written: dict[str, Any] = {}
    stream: Iterator[tuple[str, torch.Tensor]] = iter(tensors)
    for i, (name, shard) in enumerate(shards.items()):
        mine = i % engine.ranks.world_size == engine.ranks.rank
        held: dict[str, torch.Tensor] = {}
        for expected in shard:
            tensor_name, tensor = next(stream)
            if tensor_name != expected:
                raise ValueError(f"the engine gave {tensor_name} where {expected} was planned")
            if mine:
                held[tensor_name] = tensor.to("cpu", copy=True).contiguous()
        if mine and not faults:
            try:
                save_file(held, directory / name, metadata={"format": "pt"})
                _sync(directory / name)
                written[name] = _facts(directory / name)
            except (OSError, SafetensorError) as error:
                faults.append(f"{name}: {error}")
    return written


def _shard_name(kind: str, number: int, of: int) -> str:
    return f"{kind}-{number + 1:05d}-of-{of:05d}.safetensors"


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as tensors:
        return list(tensors.keys())


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _check(path: Path, facts: Mapping[str, Any]) -> None:
    if not path.exists():
        raise ValueError(f"{path.name} is missing")
    if path.stat().st_size != facts["bytes"]:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, its manifest says {facts['bytes']}")
    if _facts(path)["sha256"] != facts["sha256"]:
        raise ValueError(f"{path.name} does not match the hash in its manifest")


def _sync(path: Path) -> None:
    """Have the storage keep a file or a directory's names before anything that relies on them is written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
