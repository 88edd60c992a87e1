"""The checkpoints of a run, where they are kept: found, checked, opened, deleted. Called by `worker` and `trainer`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rmray.errors import BundleError, RunError
from rmray.training.checkpoint.cache import fetch
from rmray.training.checkpoint.files import Files, StorageFault, unreachable
from rmray.training.checkpoint.layout import (
    COMPLETE,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    STATE,
    Facts,
    TrainingState,
    checkpoint_name,
    parse_manifest,
    rank_by_quality,
    sha256_of,
    step_of,
)
from rmray.training.checkpoint.load import load_moments
from rmray.training.engine import Engine

FILES_AT_ONCE = 8

T = TypeVar("T")
Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was found complete. version: the hash of its manifest; facts: what that tells of its files."""

    state: TrainingState
    files: Files
    version: str
    facts: Mapping[str, Facts]

    @property
    def step(self) -> int:
        return self.state.step

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.files.where}/{checkpoint_name(self.step)}"

    @property
    def model_dir(self) -> Path:
        """The model as a local directory. A remote one is copied first, once per node, however many ranks ask.

        Raises BundleError where a file arrives damaged, RunError where the storage cannot be reached.
        """
        return self._local("model") / MODEL

    def load_moments(self, engine: Engine) -> None:
        """Give an engine, whose weights were loaded from `model_dir`, the optimizer's state. On every rank.

        Raises BundleError where it is of another model, and what `model_dir` raises.
        """
        directory = self._local("optimizer")
        shards = [directory / name for name in self.facts if name.startswith(OPTIMIZER)]
        load_moments(engine, shards, self.state.updates, where=self.where)

    def _local(self, group: str) -> Path:
        name = checkpoint_name(self.step)
        if self.files.local:
            return self.files.path(name)
        prefix = f"{MODEL}/" if group == "model" else OPTIMIZER
        facts = {file: fact for file, fact in self.facts.items() if file.startswith(prefix)}
        try:
            return fetch(self.files, name, facts, version=self.version, group=group)
        except StorageFault as error:
            raise unreachable(self.where, error) from error


class CheckpointStore:
    """The checkpoints of one run. Every rank and the driver make their own from the same `where`."""

    def __init__(self, where: str | Path | Files) -> None:
        """where: a directory that every node sees, or the URL of any pyarrow file system (`s3://bucket/path?region=..`).

        Raises ConfigError for a URL that pyarrow cannot read.
        """
        self.files = where if isinstance(where, Files) else Files(where)
        self.where = self.files.where

    def list(self) -> Sequence[int]:
        """Steps of the complete checkpoints, newest first; whether their files are sound is not looked at."""
        steps = self._steps()
        try:
            complete = self.files.exist([f"{checkpoint_name(step)}/{COMPLETE}" for step in steps])
        except StorageFault as error:
            raise unreachable(self.where, error) from error
        return [step for step, is_complete in zip(steps, complete, strict=True) if is_complete]

    def incomplete(self) -> Sequence[int]:
        """Steps of those that were not written, or deleted, to the end."""
        complete = set(self.list())
        return [step for step in self._steps() if step not in complete]

    def _steps(self) -> Sequence[int]:
        """Of all checkpoints, those that were not written to the end included, newest first."""
        try:
            return sorted((s for name in self.files.folders() if (s := step_of(name)) is not None), reverse=True)
        except StorageFault as error:
            raise unreachable(self.where, error) from error

    def newest(self, *, verify: bool = True, warn: Warn = lambda message: None) -> Checkpoint | None:
        """The newest complete checkpoint or, with `verify`, the newest one that is sound; None where there is none.

        warn: is told of each one that is not. Raises RunError where the storage cannot be reached.
        """
        return self._first_sound(self._steps(), verify, warn)

    def best(self, *, verify: bool = True, warn: Warn = lambda message: None) -> Checkpoint | None:
        """The one of the highest held-out accuracy, then lowest loss, then the earliest; None where none has one.

        warn: is told of each one that is damaged; the next best is taken then. Raises RunError as `newest`.
        """
        evaluations = {step: state.evaluation for step, state in self.states().items()}
        return self._first_sound(rank_by_quality(evaluations), verify, warn)

    def states(self) -> dict[int, TrainingState]:
        """The states of the complete checkpoints that can be read, newest first."""
        found = {}
        for step in self.list():
            try:
                found[step] = self.open(step, verify=False).state
            except BundleError:
                continue  # `newest` tells of it
        return found

    def _first_sound(self, steps: Sequence[int], verify: bool, warn: Warn) -> Checkpoint | None:
        for step in steps:
            try:
                return self.open(step, verify=verify)
            except BundleError as error:
                warn(str(error))
        return None

    def open(self, step: int, *, verify: bool = True) -> Checkpoint:
        """Check that a checkpoint is complete, and the sizes and hashes of its files.

        verify: False checks COMPLETE, the manifest and the state alone: where another rank has just checked the rest.
        Raises BundleError, which names the first file at fault, RunError where the storage cannot be reached.
        """
        folder = checkpoint_name(step)
        try:
            version = self._read(folder, COMPLETE).strip()
            manifest = self._read(folder, MANIFEST)
            if sha256_of(manifest) != version:
                raise ValueError(f"{MANIFEST} is not the one that {COMPLETE} was written for")
            facts = _parse(MANIFEST, lambda: parse_manifest(manifest))
            if verify:
                self._verify(folder, facts)
            text = self._read(folder, STATE)
            if sha256_of(text) != facts[STATE].sha256:
                raise ValueError(f"{STATE} does not match the hash in its manifest")
            state = _parse(STATE, lambda: TrainingState(**json.loads(text)))
            if state.step != step:
                raise ValueError(f"{STATE} is of step {state.step}")
        except StorageFault as error:
            # A disk may have lost a file where the others can be read; a network that fails says nothing of the files.
            if not self.files.local and not isinstance(error, FileNotFoundError):
                raise unreachable(self.where, error) from error
            raise self._damaged(folder, error) from error
        except (ValueError, KeyError) as error:
            raise self._damaged(folder, error) from error
        return Checkpoint(state, self.files, version, facts)

    def _read(self, folder: str, name: str) -> str:
        try:
            return self.files.read(f"{folder}/{name}").decode()
        except FileNotFoundError as error:
            hint = ": it was not written to the end" if name == COMPLETE else ""
            raise FileNotFoundError(f"{name} is missing{hint}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: {error}") from error

    def _verify(self, folder: str, facts: Mapping[str, Facts]) -> None:
        there = self.files.names(folder)
        for name, want in facts.items():
            if name not in there:
                raise ValueError(f"{name} is missing")
            if there[name] != want.bytes:
                raise ValueError(f"{name} has {there[name]} bytes, its manifest says {want.bytes}")
        pool = ThreadPoolExecutor(FILES_AT_ONCE)
        try:
            for name, found in zip(facts, pool.map(self.files.facts, (f"{folder}/{n}" for n in facts)), strict=True):
                if found != facts[name]:
                    raise ValueError(f"{name} does not match the hash in its manifest")
        finally:
            pool.shutdown(cancel_futures=True)

    def _damaged(self, folder: str, error: Exception) -> BundleError:
        return BundleError(
            "the checkpoint is damaged or incomplete",
            where=f"{self.where}/{folder}",
            why=str(error) if type(error) in (ValueError, FileNotFoundError) else f"{type(error).__name__}: {error}",
            next_step="an older checkpoint is used where there is one; this one may be deleted",
        )

    def delete(self, step: int) -> None:
        """Delete a checkpoint. COMPLETE goes first, so that a half-deleted one is never taken for whole."""
        folder = checkpoint_name(step)
        self.files.delete(f"{folder}/{COMPLETE}")
        self.files.delete_folder(folder)

    def check_writable(self) -> None:
        """Write a small file and delete it. Raises RunError where that fails: better before a run than at its end."""
        name = f".probe-{uuid.uuid4().hex}"
        try:
            self.files.write(name, [b"rmray"])
            self.files.delete(name)
        except StorageFault as error:
            raise RunError(
                "checkpoints cannot be written here",
                where=self.where,
                why=f"{type(error).__name__}: {error}",
                next_step="set checkpoint.storage to a place that every node may write to",
            ) from error


def _parse(name: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name}: {type(error).__name__}: {error}") from error
