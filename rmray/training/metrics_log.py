"""The run's diary: metrics.jsonl and TensorBoard files. Written by rank 0's hooks, read by `progress` and by people."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE, TENSORBOARD_DIR = "metrics.jsonl", "tensorboard"
TOLD_FIGURES = (
    "loss",
    "accuracy",
    "margin",
    "eval_loss",
    "eval_accuracy",
    "eval_accuracy_low",
    "eval_accuracy_high",
    "eval_ece",
)

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends one JSON object a line. Opening it for step n forgets what a broken run wrote from step n on.

    lost_steps: training steps so forgotten. last_time: when the newest line was written, seconds since the epoch.

    A disk that is full ends no run: lines wait in memory until there is room, and TensorBoard's files are given up.
    """

    def __init__(self, run_dir: Path, *, start_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = run_dir / METRICS_FILE
        known = list(read_metrics(path))
        self.lost_steps = sum(line["step"] >= start_step and "eval_loss" not in line for line in known)
        self.last_time: float | None = known[-1].get("time") if known else None
        forget_from(path, start_step)
        self._path, self._unwritten, self._told = path, b"", False
        self._file = path.open("ab", buffering=0)
        self._board: SummaryWriter | None = SummaryWriter(
            str(run_dir / TENSORBOARD_DIR), purge_step=start_step or None, max_queue=100
        )

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line, which has a `step`. Numbers that are not finite become null: JSON has none."""
        clean = {key: _json_value(value) for key, value in line.items()}
        self._unwritten += f"{json.dumps(clean)}\n".encode()
        self._write_what_waits()
        with self._giving_up_the_board() as board:
            for key, value in clean.items():
                if board and key not in ("step", "time") and isinstance(value, int | float):
                    group = "eval" if key.startswith("eval_") else "train"
                    board.add_scalar(f"{group}/{key.removeprefix('eval_')}", value, clean["step"])

    def close(self) -> None:
        self._write_what_waits()
        if self._unwritten:
            logger.warning("%s lacks its last %d line(s)", self._path, self._unwritten.count(b"\n"))
        self._file.close()
        with self._giving_up_the_board() as board:
            if board:
                board.close()

    def _write_what_waits(self) -> None:
        try:
            while self._unwritten:  # a disk that becomes full takes a part of a line
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not self._told:
                logger.warning("%s cannot be written, its lines wait for room: %s", self._path, error)
            self._told = True

    @contextmanager
    def _giving_up_the_board(self) -> Iterator[SummaryWriter | None]:
        try:
            yield self._board
        except OSError as error:  # its thread has ended, and would take no more
            self._board = None
            logger.warning("TensorBoard's files cannot be written, and are given up: %s", error)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a metrics file; an unfinished last line is left out."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)


def figures_of(path: Path, step: int) -> dict[str, Any]:
    """What training step `step` came to, and the held-out evaluation of the weights it left, where there was one."""
    merged: dict[str, Any] = {}
    for line in read_metrics(path):
        if line["step"] == step:
            merged |= line
    return {key: merged[key] for key in TOLD_FIGURES if key in merged}


def forget_from(path: Path, step: int) -> None:
    """Cut the file before the first line of step `step` or later: a resumed run writes those anew.

    In place, so that whoever follows the file keeps his hold on it.
    """
    if not path.exists():
        return
    kept_bytes = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] >= step:
                break
            kept_bytes += len(line)
    os.truncate(path, kept_bytes)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
