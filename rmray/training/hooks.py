"""What happens after a step: one concern a class. Given to the loop by `worker`, on every rank, in this order.

A hook's decisions rest on what is the same on every rank, so that all ranks run its collectives or none does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from rmray.data.prepared import Row
from rmray.errors import TrainingError
from rmray.training.checkpoint import CheckpointWriter, TrainingState
from rmray.training.engine import Engine
from rmray.training.events import EventLog
from rmray.training.held_out_figures import evaluate_shares
from rmray.training.loop import Progress
from rmray.training.metrics_log import MetricsLog
from rmray.training.notices import STOP, Notices
from rmray.training.objective import Objective

MAX_SKIPPED_IN_A_ROW = 3

logger = logging.getLogger(__name__)


class LogSteps:
    """Writes each step's line to the metrics log, on the rank that has one, and the event that training goes on.

    started: what that event tells beside the step, how many steps a break cost and how long it was.
    """

    def __init__(self, log: MetricsLog | None, events: EventLog | None, started: Mapping[str, Any]) -> None:
        self._log, self._events, self._started = log, events, started

    def __call__(self, engine: Engine, progress: Progress) -> None:
        if self._log:
            now = time.time()
            if self._started and self._events:
                break_s = now - self._log.last_time if self._log.last_time else None
                lost = {"lost_steps": self._log.lost_steps, "recovery_s": break_s}
                self._events.write("started", step=progress.result.step, **self._started, **lost)
                self._started = {}
            self._log.write(step_line(progress) | {"time": now})


def step_line(progress: Progress) -> dict[str, Any]:
    """A step as its line in metrics.jsonl: `skipped` and `faulty_row_ids` are there where no weight moved."""
    line = asdict(progress.result)
    applied, faulty, _ = line.pop("applied"), line.pop("faulty_row_ids"), line.pop("flagged")
    seconds = max(progress.seconds, 1e-9)
    per_s = {f"{name}_per_s": line[name] / seconds for name in ("pairs", "comparisons", "tokens")}
    line |= per_s | {"seconds": seconds}
    return line if applied else line | {"skipped": True, "faulty_row_ids": list(faulty)}


class StopWhenBroken:
    """Counts steps in a row whose loss or gradient was not finite, and stops the run at the third."""

    def __init__(self, skipped_in_a_row: int = 0) -> None:
        self.skipped_in_a_row = skipped_in_a_row

    def __call__(self, engine: Engine, progress: Progress) -> None:
        result = progress.result
        if result.applied:
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        rows = ", ".join(result.faulty_row_ids)
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self.skipped_in_a_row} steps in a row had a loss or gradient that is not finite",
                where=f"step {result.step}, rows {rows}",
                why="the weights were left as they were, but training does not go on",
                next_step="lower optim.lr or optim.max_grad_norm, lengthen the warm-up, and look at the rows named",
            )


class HeedNotices:
    """Where any rank has heard that its machine goes, saves at once; where any was told to stop, ends the run too."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices

    def __call__(self, engine: Engine, progress: Progress) -> None:
        if progress.result.flagged:
            kinds = {kind for part in engine.ranks.gather(self._notices.pending()) for kind in part}
            self._notices.heard(kinds)
            progress.save_now = True
            progress.interrupted = STOP in kinds and not progress.is_last


class Evaluate:
    """Scores the held-out rows every so many steps and after the last, and logs the figures.

    latest: the newest figures, latest_step: the step they were made after.
    """

    def __init__(
        self,
        shares: Callable[[], Iterable[Sequence[Row]]],
        objective: Objective,
        *,
        every_steps: int,
        pooling: str,
        log: MetricsLog | None,
    ) -> None:
        self._shares, self._objective, self._every_steps = shares, objective, every_steps
        self._pooling, self._log = pooling, log
        self.latest: dict[str, Any] = {}
        self.latest_step: int | None = None

    def __call__(self, engine: Engine, progress: Progress) -> None:
        if not _is_due(progress, self._every_steps):
            return
        start_s = time.perf_counter()
        figures = evaluate_shares(engine, self._shares(), self._objective, pooling=self._pooling)
        if figures is None:
            return
        self.latest, self.latest_step = figures, progress.result.step
        if self._log:
            seconds = time.perf_counter() - start_s
            self._log.write({"step": progress.result.step, **figures, "eval_seconds": seconds, "time": time.time()})


class Remembers(Protocol):
    """A hook whose memory a checkpoint keeps, so that a resumed run decides as the run left alone does."""

    def memory(self) -> dict[str, Any]: ...


class SaveCheckpoints:
    """Saves every so many steps, at the end, when told to, and where held-out accuracy is better than ever.

    remembering: hooks by the name under which a checkpoint keeps their memory; this hook adds its own as `best`.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        guard: StopWhenBroken,
        evaluate: Evaluate,
        remembering: Mapping[str, Remembers],
        *,
        seed: int,
        identity: dict[str, Any],
        every_steps: int,
        keep_best: bool,
        memory: Mapping[str, Any] | None,
    ) -> None:
        self._writer, self._guard, self._evaluate, self._remembering = writer, guard, evaluate, remembering
        self._seed, self._identity, self._every_steps, self._keep_best = seed, identity, every_steps, keep_best
        self._best_accuracy: float | None = (memory or {}).get("eval_accuracy")
        self._best_before = self._best_accuracy  # the last save

    def __call__(self, engine: Engine, progress: Progress) -> None:
        result, evaluate = progress.result, self._evaluate
        evaluation = evaluate.latest if evaluate.latest_step == result.step else None
        best = evaluation is not None and self._is_best(evaluation["eval_accuracy"])
        ends = progress.is_last or progress.interrupted
        if not (ends or progress.save_now or (best and self._keep_best) or _is_due(progress, self._every_steps)):
            return
        state = TrainingState(
            step=result.step + 1,
            epoch=result.epoch,
            updates=engine.updates,
            skipped_in_a_row=self._guard.skipped_in_a_row,
            seed=self._seed,
            identity=self._identity,
            evaluation=evaluation,
            memory={name: hook.memory() for name, hook in self._remembering.items()}
            | {"best": {"eval_accuracy": self._best_accuracy}},
            finished=progress.is_last,
        )
        best_before, self._best_before = self._best_before, self._best_accuracy
        self._writer.save(state)
        if self._writer.last_failed:  # the best that was to be saved may not be there: better to save another than none
            self._best_accuracy = self._best_before = best_before
        if ends:
            self._writer.finish()

    def _is_best(self, accuracy: float) -> bool:
        if self._best_accuracy is not None and accuracy <= self._best_accuracy:
            return False
        self._best_accuracy = accuracy
        return True


def _is_due(progress: Progress, every_steps: int) -> bool:
    return progress.is_last or (progress.result.step + 1) % every_steps == 0
