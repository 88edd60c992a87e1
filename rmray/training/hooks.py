"""What happens after a step: one concern a class. Given to the loop by `worker`, on every rank, in this order.

A hook's decisions rest on what is the same on every rank, so that all ranks run its collectives or none does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rmray.data.prepared import Row
from rmray.errors import TrainingError
from rmray.training.engine import Engine
from rmray.training.loop import Progress
from rmray.training.metrics_log import MetricsLog
from rmray.training.state import TrainingState, save_checkpoint
from rmray.training.step import Objective, evaluate_shares

MAX_SKIPPED_IN_A_ROW = 3

logger = logging.getLogger(__name__)


class LogSteps:
    """Writes each step's line to the metrics log, on the rank that has one."""

    def __init__(self, log: MetricsLog | None) -> None:
        self._log = log

    def __call__(self, engine: Engine, progress: Progress) -> None:
        if self._log:
            self._log.write(step_line(progress))


def step_line(progress: Progress) -> dict[str, Any]:
    """A step as its line in metrics.jsonl: `skipped` and `faulty_row_ids` are there where no weight moved."""
    line = asdict(progress.result)
    applied, faulty = line.pop("applied"), line.pop("faulty_row_ids")
    seconds = max(progress.seconds, 1e-9)
    line |= {"pairs_per_s": line["pairs"] / seconds, "tokens_per_s": line["tokens"] / seconds, "seconds": seconds}
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
        what = "loss" if result.loss is None else "gradient"
        rows = ", ".join(result.faulty_row_ids)
        if engine.ranks.rank == 0:
            logger.warning("step %d skipped: its %s is not finite; rows: %s", result.step, what, rows)
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self.skipped_in_a_row} steps in a row had a loss or gradient that is not finite",
                where=f"step {result.step}, rows {rows}",
                why="the weights were left as they were, but training does not go on",
                next_step="lower optim.lr or optim.max_grad_norm, lengthen the warm-up, and look at the rows named",
            )


class Evaluate:
    """Scores the held-out rows every so many steps and after the last, and logs the figures."""

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
        self.latest: dict[str, float] = {}
        self.latest_step: int | None = None

    def __call__(self, engine: Engine, progress: Progress) -> None:
        if not _is_due(progress, self._every_steps):
            return
        figures = evaluate_shares(engine, self._shares(), self._objective, pooling=self._pooling)
        if figures is None:
            return
        self.latest, self.latest_step = figures, progress.result.step
        if self._log:
            self._log.write({"step": progress.result.step, **figures})


class SaveCheckpoints:
    """Saves every so many steps and after the last."""

    def __init__(
        self,
        checkpoints: Path,
        guard: StopWhenBroken,
        identity: dict[str, Any],
        *,
        every_steps: int,
        keep: int,
        save_model_extras: Callable[[Path], None],
    ) -> None:
        self._checkpoints, self._guard, self._identity = checkpoints, guard, identity
        self._every_steps, self._keep, self._save_model_extras = every_steps, keep, save_model_extras

    def __call__(self, engine: Engine, progress: Progress) -> None:
        if not _is_due(progress, self._every_steps):
            return
        state = TrainingState(
            progress.result.step + 1, engine.updates, self._guard.skipped_in_a_row, identity=self._identity
        )
        save_checkpoint(engine, self._checkpoints, state, keep=self._keep, save_model_extras=self._save_model_extras)


class Report:
    """Calls `report` with the step's figures at every evaluation and checkpoint, on every rank alike."""

    def __init__(
        self, report: Callable[[dict[str, Any]], None], evaluate: Evaluate, every_steps: Sequence[int]
    ) -> None:
        self._report, self._evaluate, self._every_steps = report, evaluate, every_steps

    def __call__(self, engine: Engine, progress: Progress) -> None:
        if any(_is_due(progress, every) for every in self._every_steps):
            result = progress.result
            self._report(
                {"step": result.step, "loss": result.loss, "accuracy": result.accuracy, **self._evaluate.latest}
            )


def _is_due(progress: Progress, every_steps: int) -> bool:
    return progress.is_last or (progress.result.step + 1) % every_steps == 0
