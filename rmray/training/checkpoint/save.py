"""Save a run's checkpoints: a snapshot in the loop, the rest in a thread. Called by the loop's hooks, on every rank.

The tensors are gathered one at a time. They are cut into shards of bounded size which the ranks write in turn, so that
no process holds a whole large model.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import psutil
import torch

from rmray.errors import TrainingError
from rmray.training.checkpoint.finish import Extras, Finish, Outcome, Task
from rmray.training.checkpoint.layout import (
    BYTES_PER_VALUE,
    MAX_SHARD_BYTES,
    Attempt,
    TrainingState,
    plan_model,
    plan_moments,
)
from rmray.training.checkpoint.store import CheckpointStore
from rmray.training.checkpoint.write import Room, Shard, WriteJob
from rmray.training.engine import MOMENTS, Engine

MAX_FAILURES_IN_A_ROW = 3
WAITED_FOR_S = 2.0  # what takes less is not worth losing more than one interval for
SHARE_OF_FREE_MEMORY = 0.25
PARTS_TIMEOUT_S = 600.0
SECONDS_BETWEEN_MEETINGS = 1.0


def free_bytes() -> int:
    """Main memory that snapshots of this rank may take: a share of what is free, shared by the ranks of the node."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available) // ranks_here


class CheckpointWriter:
    """Saves the states of one engine to one store. Every rank has one.

    background: whether `save` returns once the snapshot is taken. A crash then loses at most one interval, and the
    steps that were made while the save before it was being written. False: `save` waits until the checkpoint is
    complete, and never more than one interval is lost. "auto" waits for as long as the last one took less than two
    seconds.

    keep: newest checkpoints kept; keep_best: that of the highest held-out accuracy too. save_model_extras: writes what
    stands beside the weights (config, tokenizer) into a directory. still_mine: whether the run is still this driver's;
    a save is dropped without a word where it is not. on_saved(step, bytes, seconds that the loop of rank 0 waited,
    seconds from `save` to completion) and on_failed(step, message). These four are called on rank 0 alone, and from its
    thread: never two at once, but while the loop runs.

    beat: called about once a second while a save is waited for, on every rank.

    blocked_s: seconds that the loop has waited for saving so far, on this rank.
    """

    def __init__(
        self,
        engine: Engine,
        store: CheckpointStore,
        *,
        keep: int,
        keep_best: bool,
        background: bool | Literal["auto"],
        save_model_extras: Callable[[Path], None],
        still_mine: Callable[[], bool] = lambda: True,
        on_saved: Callable[[int, int, float, float], None] = lambda step, num_bytes, blocked_s, seconds: None,
        on_failed: Callable[[int, str], None] = lambda step, message: None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        parts_timeout_s: float = PARTS_TIMEOUT_S,
        free_bytes: Callable[[], int] = free_bytes,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._ranks, self._store = engine, engine.ranks, store
        self._keep, self._keep_best, self._background = keep, keep_best, background
        self._extras, self._still_mine = Extras(save_model_extras), still_mine
        self._on_saved, self._on_failed = on_saved, on_failed
        self._max_shard_bytes, self._parts_timeout_s = max_shard_bytes, parts_timeout_s
        self._free_bytes, self._beat, self._clock = free_bytes, beat, clock
        self._room = Room()
        self._job: WriteJob | None = None
        self._failures = 0
        self._last_fault: str | None = None
        self._saved_step: int | None = None  # rank 0
        self._write_s = 0.0  # rank 0: how long the last checkpoint took after its snapshot; none yet is waited for
        self.blocked_s = 0.0

    def save(self, state: TrainingState) -> None:
        """Save the engine as it is now. Collective.

        Waits for the save before. A failed save is told of, and the next one makes up for it; the third in a row raises
        TrainingError on every rank.
        """
        begin_s = self._clock()
        try:
            text = state.to_json()
            self._settle()
            background = self._start(state.step, text, begin_s)
            if not background:
                self._settle()
        finally:
            self.blocked_s += self._clock() - begin_s

    def finish(self) -> None:
        """Wait for the last save. Collective. Raises TrainingError on every rank where it failed."""
        begin_s = self._clock()
        try:
            self._settle()
            if self._last_fault:
                self._raise("the last checkpoint", self._last_fault)
        finally:
            self.blocked_s += self._clock() - begin_s

    @property
    def last_failed(self) -> bool:
        """Whether the last save that was waited for has failed; the same on every rank."""
        return self._last_fault is not None

    def _settle(self) -> None:
        """Wait for the job that runs, and agree on how it ended."""
        job, self._job = self._job, None
        if job is None:
            return
        self._wait_together(job.written)
        faults = [fault for fault in self._ranks.gather(job.fault) if fault]
        if job.finish and faults:
            job.finish.fail(faults)
        self._wait_together(job.done if job.finish else None)
        outcome: Outcome | None = self._ranks.gather(job.finish and job.finish.outcome)[0]
        self._last_fault = outcome.fault if outcome else "rank 0's writer has failed"
        self._failures = self._failures + 1 if self._last_fault else 0
        if self._last_fault and self._failures >= MAX_FAILURES_IN_A_ROW:
            self._raise(f"{self._failures} checkpoints in a row", self._last_fault)

    def _wait_together(self, event: threading.Event | None) -> None:
        """Return once every rank's event is set. None: nothing to wait for here.

        Ranks meet every second, so that none waits long in a collective and all beat, however long a storage takes.
        """
        while not all(self._ranks.gather(event is None or event.wait(SECONDS_BETWEEN_MEETINGS))):
            self._beat()

    def _raise(self, what: str, fault: str) -> NoReturn:
        raise TrainingError(
            f"{what} could not be written",
            where=self._store.where,
            why=fault,
            next_step="free space or mend the storage, and run the same command with --resume",
        )

    def _start(self, step: int, state: str, begin_s: float) -> bool:
        """Take the snapshot and have it written; whether that goes on in the background."""
        ranks, plan = self._ranks, _plan(self._engine, self._max_shard_bytes)
        token, background = ranks.gather((uuid.uuid4().hex[:8], self._in_background()))[0]
        attempt, times = Attempt(step, token), _Times(begin_s)
        finish = self._make_finish(attempt, state, plan, times) if ranks.rank == 0 else None
        self._room.set_limit(self._free_bytes())
        job = self._job = WriteJob(self._store.files, attempt, ranks.rank, self._room, finish)
        try:
            self._snapshot(job, plan.model, self._engine.weights(), plan.sizes)
            self._snapshot(job, plan.optimizer, self._engine.moments() if plan.optimizer else (), plan.sizes)
        except BaseException as error:
            job.seal(given_up=f"the snapshot broke off: {type(error).__name__}: {error}")
            raise
        times.snapshot_s = self._clock()
        if background:
            times.end_s = times.snapshot_s
        job.seal()
        return bool(background)

    def _make_finish(self, attempt: Attempt, state: str, plan: _Plan, times: _Times) -> Finish:
        task = Task(
            attempt=attempt,
            state=state,
            planned=frozenset([*plan.model, *plan.optimizer]),
            index=plan.index,
            world_size=self._ranks.world_size,
            keep=self._keep,
            keep_best=self._keep_best,
            overwrites_own=self._saved_step == attempt.step,
            parts_timeout_s=self._parts_timeout_s,
        )
        return Finish(
            self._store, task, extras=self._extras, still_mine=self._still_mine, tell=lambda o: self._tell(o, times)
        )

    def _tell(self, outcome: Outcome, times: _Times) -> None:
        """What became of a save. In the thread of rank 0."""
        now_s = self._clock()
        if outcome.fault:
            self._on_failed(outcome.step, outcome.fault)
        elif not outcome.taken_over:
            self._saved_step, self._write_s = outcome.step, now_s - times.snapshot_s
            waited_s = (times.end_s or now_s) - times.begin_s
            self._on_saved(outcome.step, outcome.num_bytes, waited_s, now_s - times.begin_s)

    def _in_background(self) -> bool:
        return self._write_s >= WAITED_FOR_S if self._background == "auto" else self._background

    def _snapshot(
        self,
        job: WriteJob,
        shards: Mapping[str, list[str]],
        tensors: Iterable[tuple[str, torch.Tensor]],
        sizes: Mapping[str, int],
    ) -> None:
        """Copy every n-th shard, whose tensors come in the order of the shards, to main memory, and hand it on."""
        ranks = self._ranks
        stream: Iterator[tuple[str, torch.Tensor]] = iter(tensors)
        for i, (name, shard) in enumerate(shards.items()):
            mine = i % ranks.world_size == ranks.rank
            num_bytes = sum(sizes[tensor_name] for tensor_name in shard)
            if mine:
                self._room.take(num_bytes)
            held: dict[str, torch.Tensor] = {}
            for expected in shard:
                tensor_name, tensor = next(stream)
                if tensor_name != expected:
                    raise ValueError(f"the engine gave {tensor_name} where {expected} was planned")
                if mine:
                    held[tensor_name] = tensor.to("cpu", copy=True).contiguous()
            if mine:
                job.put(Shard(name, held, num_bytes))


@dataclass(slots=True)
class _Times:
    """By the writer's clock, for what is told. end_s: of waiting, None where the loop waits to the end."""

    begin_s: float
    snapshot_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which tensors each file holds, the bytes of each tensor, and the text of the model's index, if it has one."""

    model: dict[str, list[str]]
    optimizer: dict[str, list[str]]
    sizes: dict[str, int]
    index: str | None


def _plan(engine: Engine, max_shard_bytes: int) -> _Plan:
    """The same on every rank."""
    weights = {name: BYTES_PER_VALUE * size for name, size in engine.tensor_sizes().items()}
    trained = engine.trained_names() if engine.updates else set()
    moments = {f"{name}.{key}": size for name, size in weights.items() if name in trained for key in MOMENTS}
    model, index = plan_model(weights, max_shard_bytes)
    return _Plan(model, plan_moments(moments, max_shard_bytes), weights | moments, index)
