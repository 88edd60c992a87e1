"""What rank 0's thread does around the shards: clear up before, make the checkpoint complete, delete old ones after.

Called by `write`. A checkpoint is complete from the moment in which COMPLETE (on a disk: the folder that holds it) gets
its name. What is left of an attempt that ended before is never read, and cleared away at the next one.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rmray.training.checkpoint.layout import (
    COMPLETE,
    INDEX,
    MANIFEST,
    MODEL,
    STATE,
    Attempt,
    Facts,
    checkpoint_name,
    is_layout,
    is_work,
    manifest_text,
    rank_by_quality,
    sha256_of,
    superseded,
)
from rmray.training.checkpoint.store import CheckpointStore

FIRST_PAUSE_S, MOST_PAUSE_S = 0.02, 1.0

logger = logging.getLogger(__name__)


class Extras:
    """The files beside the weights. They are the same in each checkpoint: made once, kept in memory."""

    def __init__(self, save_model_extras: Callable[[Path], None]) -> None:
        self._save = save_model_extras
        self._files: dict[str, bytes] | None = None

    def __call__(self) -> dict[str, bytes]:
        if self._files is None:
            with TemporaryDirectory() as name:
                directory = Path(name)
                self._save(directory)
                paths = sorted(path for path in directory.rglob("*") if path.is_file())
                self._files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}
        return self._files


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. fault: why it failed, None where it did not. taken_over: by another driver; no failure."""

    step: int
    fault: str | None = None
    num_bytes: int = 0
    taken_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What rank 0 has to know to complete one attempt.

    state: the text of state.json. planned: the shards of all ranks. index: text of the model's index, None for one
    shard. overwrites_own: this very writer saved the same step just before. parts_timeout_s: for the other ranks'
    reports, from when rank 0 has written its own shards.
    """

    attempt: Attempt
    state: str
    planned: frozenset[str]
    index: str | None
    world_size: int
    keep: int
    keep_best: bool
    overwrites_own: bool
    parts_timeout_s: float


class _TakenOverError(Exception):
    pass


class Finish:
    """One attempt, seen by rank 0's thread. tell: gets the outcome, before anyone who waits for the thread goes on."""

    def __init__(
        self,
        store: CheckpointStore,
        task: Task,
        *,
        extras: Extras,
        still_mine: Callable[[], bool],
        tell: Callable[[Outcome], None],
    ) -> None:
        self._store, self._files, self._task, self._attempt = store, store.files, task, task.attempt
        self._extras, self._still_mine, self._tell = extras, still_mine, tell
        self._folder = task.attempt.folder(renames=self._files.local)
        self._taken_over = False
        self._woken = threading.Event()
        self._faults_elsewhere: list[str] = []
        self.outcome: Outcome | None = None

    def begin(self) -> dict[str, Facts]:
        """Clear up, and write what stands beside the shards; the facts of that."""
        self._check_mine()
        self._clear_leftovers()
        contents = {f"{MODEL}/{name}": content for name, content in self._extras().items()}
        if self._task.index is not None:
            contents[INDEX] = self._task.index.encode()
        return {name: self._write(name, content) for name, content in contents.items()}

    def fail(self, faults: list[str]) -> None:
        """Other ranks could not write: do not wait for their reports. From the loop's thread."""
        self._faults_elsewhere = faults
        self._woken.set()

    def end(self, facts: Mapping[str, Facts], fault: str | None) -> None:
        """Wait for the other ranks, complete the checkpoint, delete superseded ones. facts, fault: of this rank."""
        step = self._attempt.step
        try:
            everything = self._collect(facts, fault)
            self._complete(everything)
            outcome = Outcome(step, num_bytes=sum(fact.bytes for fact in everything.values()))
        except _TakenOverError:
            outcome = Outcome(step, taken_over=True)
        except Exception as error:  # whatever it is: the loop, and the other ranks, wait for this thread
            outcome = Outcome(step, fault=str(error) or type(error).__name__)
        self._tidy(outcome)
        try:
            self._tell(outcome)
        except Exception as error:
            outcome = Outcome(step, fault=f"while telling of a save: {type(error).__name__}: {error}")
        self.outcome = outcome

    def _check_mine(self) -> None:
        if self._taken_over or not self._still_mine():
            self._taken_over = True
            raise _TakenOverError

    def _clear_leftovers(self) -> None:
        """Delete what attempts left that came to no end. None but this one is alive: ranks have agreed to begin it."""
        for name in self._files.folders():
            if is_work(name) and name != self._attempt.work:
                self._files.delete_folder(name)
        step, moves = self._attempt.step, self._files.local
        for left in self._store.incomplete():
            # Where files cannot be renamed, the other ranks may be writing to this step already.
            if (moves or left != step) and all(map(is_layout, self._files.names(checkpoint_name(left)))):
                self._store.delete(left)
        if not moves and not self._task.overwrites_own:
            self._files.delete(f"{self._folder}/{COMPLETE}")

    def _collect(self, facts: Mapping[str, Facts], fault: str | None) -> dict[str, Facts]:
        """The facts of all ranks' files. Raises where one has failed, after all have come to their end."""
        if self._taken_over:
            raise _TakenOverError
        everything, faults = dict(facts), [fault] if fault else []
        missing = {self._attempt.part(rank).rpartition("/")[2] for rank in range(1, self._task.world_size)}
        deadline_s, pause_s = time.monotonic() + self._task.parts_timeout_s, FIRST_PAUSE_S
        while missing and not self._faults_elsewhere:
            for name in missing & self._files.names(self._attempt.work).keys():
                part = self._read_part(name)
                if part is not None:
                    missing.remove(name)
                    everything |= {file: Facts(**fact) for file, fact in part["files"].items()}
                    faults += [part["fault"]] if part["fault"] else []
            if missing and time.monotonic() > deadline_s:
                raise TimeoutError(f"no {', '.join(sorted(missing))} within {self._task.parts_timeout_s:g} s")
            if missing and self._woken.wait(pause_s):
                break
            pause_s = min(MOST_PAUSE_S, 1.5 * pause_s)
        faults += self._faults_elsewhere
        if not faults and (absent := self._task.planned - everything.keys()):
            faults.append(f"{min(absent)} was not written")
        if faults:
            raise OSError(faults[0])
        return everything

    def _read_part(self, name: str) -> dict[str, Any] | None:
        try:
            part: dict[str, Any] = json.loads(self._files.read(f"{self._attempt.work}/{name}"))
            return part
        except json.JSONDecodeError:  # it is just being written
            return None

    def _complete(self, facts: dict[str, Facts]) -> None:
        facts[STATE] = self._write(STATE, self._task.state.encode())
        manifest = manifest_text(facts)
        self._write(MANIFEST, manifest.encode())
        self._check_mine()
        if not self._files.local:
            # Of a killed attempt at the same step, which may have cut the model otherwise.
            for stranger in self._files.names(self._folder).keys() - {*facts, MANIFEST, COMPLETE}:
                self._files.delete(f"{self._folder}/{stranger}")
        self._write(COMPLETE, f"{sha256_of(manifest)}\n".encode())
        if self._files.local:
            final = checkpoint_name(self._attempt.step)
            self._files.sync(f"{self._folder}/{MODEL}")
            self._files.sync(self._folder)
            if self._files.path(final).exists():
                self._files.rename(final, f"{self._attempt.work}/replaced")
            self._files.rename(self._folder, final)
            self._files.sync("")

    def _tidy(self, outcome: Outcome) -> None:
        """After success delete what is superseded, after failure what was written. A fault here is no failed save."""
        try:
            self._files.delete_folder(self._attempt.work)
            if outcome.fault and not self._files.local and not self._task.overwrites_own:
                self._store.delete(outcome.step)
            elif not outcome.fault and not outcome.taken_over:
                self._delete_superseded(outcome.step)
        except Exception as error:  # permissions, network: the next save tries again
            logger.warning("%s: old files could not be deleted: %s", self._store.where, error)

    def _delete_superseded(self, saved: int) -> None:
        best = None
        if self._task.keep_best:
            states = self._store.states().items()
            ranked = rank_by_quality({step: state.evaluation for step, state in states if step <= saved})
            best = ranked[0] if ranked else None
        for step in superseded(self._store.list(), saved, keep=self._task.keep, best=best):
            self._store.delete(step)

    def _write(self, name: str, content: bytes) -> Facts:
        return self._files.write(f"{self._folder}/{name}", [content])
