"""The thread that writes one rank's part of one checkpoint while the training loop goes on. Started by `save`.

Nothing here is collective: what ranks tell each other meanwhile goes through the storage, as part files.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from queue import SimpleQueue

import torch

from rmray.training.checkpoint.files import Files, StorageFault
from rmray.training.checkpoint.finish import Finish
from rmray.training.checkpoint.layout import Attempt, Facts
from rmray.training.checkpoint.tensors import pieces

REPORT_TRIES = 5
SECONDS_BETWEEN_TRIES = 1.0


class Room:
    """How many bytes of snapshots may wait in memory at a time; one shard always may."""

    def __init__(self) -> None:
        self._limit = self._held = 0
        self._freed = threading.Condition()

    def set_limit(self, num_bytes: int) -> None:
        with self._freed:
            self._limit = num_bytes

    def take(self, num_bytes: int) -> None:
        """Wait until there is room."""
        with self._freed:
            self._freed.wait_for(lambda: not self._held or self._held + num_bytes <= self._limit)
            self._held += num_bytes

    def give_back(self, num_bytes: int) -> None:
        with self._freed:
            self._held -= num_bytes
            self._freed.notify_all()


@dataclass(frozen=True, slots=True)
class Shard:
    """A file to be written. num_bytes: what it takes of the room."""

    name: str
    tensors: dict[str, torch.Tensor]
    num_bytes: int


class WriteJob:
    """Writes the shards it is given, then reports; on rank 0, which has a `finish`, it makes the checkpoint complete.

    written: set once this rank's shards are written or given up; `fault` says why they were. done: set at the end.
    """

    def __init__(self, files: Files, attempt: Attempt, rank: int, room: Room, finish: Finish | None) -> None:
        self._files, self._attempt, self._rank, self._room = files, attempt, rank, room
        self.finish = finish
        self.fault: str | None = None
        self.written, self.done = threading.Event(), threading.Event()
        self._folder = attempt.folder(renames=files.local)
        self._shards: SimpleQueue[Shard | None] = SimpleQueue()
        self._given_up: str | None = None
        # A daemon: a process that ends by an error does not wait for it. What it leaves behind is no checkpoint, and
        # the next save clears it away.
        threading.Thread(target=self._run, name=f"checkpoint-{attempt.step}", daemon=True).start()

    def put(self, shard: Shard) -> None:
        self._shards.put(shard)

    def seal(self, given_up: str | None = None) -> None:
        """No more shards come. given_up: why there should have been more."""
        self._given_up = given_up
        self._shards.put(None)

    def _run(self) -> None:
        facts: dict[str, Facts] = {}
        try:
            self._write(facts)
            if self.finish is None:
                self._report(facts)
        finally:
            self.written.set()
        try:
            if self.finish:
                self.finish.end(facts, self.fault)
        finally:
            self.done.set()

    def _write(self, facts: dict[str, Facts]) -> None:
        """Write what comes until there is no more; after a fault only take it off the queue."""
        try:
            if self.finish:
                facts |= self.finish.begin()
        except Exception as error:  # whatever it is: the loop, and the other ranks, wait for this thread
            self.fault = _text(error)
        while (shard := self._shards.get()) is not None:
            try:
                if self.fault is None:
                    facts[shard.name] = self._files.write(f"{self._folder}/{shard.name}", pieces(shard.tensors))
            except Exception as error:
                self.fault = f"{shard.name}: {_text(error)}"
                self._delete([*facts, shard.name])
            finally:
                shard.tensors.clear()
                self._room.give_back(shard.num_bytes)
        self.fault = self.fault or self._given_up

    def _delete(self, names: list[str]) -> None:
        """Make room on a full disk: for what the other ranks have to report, and for training's own files."""
        try:
            for name in names if self._files.local else ():
                self._files.delete(f"{self._folder}/{name}")
        except StorageFault:
            pass  # rank 0 clears the whole attempt away

    def _report(self, facts: Mapping[str, Facts]) -> None:
        """Tell rank 0. Where even that cannot be written, it is told at the next save."""
        for attempts_left in reversed(range(REPORT_TRIES)):
            try:
                self._files.write(self._attempt.part(self._rank), [part_text(facts, self.fault).encode()])
                return
            except StorageFault as error:
                self.fault = self.fault or f"the report of rank {self._rank}: {_text(error)}"
                if attempts_left:
                    time.sleep(SECONDS_BETWEEN_TRIES)


def part_text(facts: Mapping[str, Facts], fault: str | None) -> str:
    """What a rank reports, as `finish` reads it."""
    return json.dumps({"files": {name: asdict(fact) for name, fact in facts.items()}, "fault": fault})


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
