"""The run's diary: metrics.jsonl and TensorBoard files. Written by rank 0's hooks, read by `progress` and by people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

METRICS_FILE, TENSORBOARD_DIR = "metrics.jsonl", "tensorboard"
FINAL_FIGURES = (
    "loss",
    "accuracy",
    "margin",
    "eval_loss",
    "eval_accuracy",
    "eval_accuracy_low",
    "eval_accuracy_high",
    "eval_ece",
)


class MetricsLog:
    """Appends one JSON object a line. Opening it for step n forgets what a broken run wrote from step n on.

    lost_steps: training steps so forgotten. last_time: when the newest line was written, seconds since the epoch.
    """

    def __init__(self, run_dir: Path, *, start_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = run_dir / METRICS_FILE
        known = list(read_metrics(path))
        self.lost_steps = sum(line["step"] >= start_step and "eval_loss" not in line for line in known)
        self.last_time: float | None = known[-1].get("time") if known else None
        forget_from(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / TENSORBOARD_DIR), purge_step=start_step or None, max_queue=100)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line, which has a `step`. Numbers that are not finite become null: JSON has none."""
        clean = {key: _json_value(value) for key, value in line.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        for key, value in clean.items():
            if key not in ("step", "time") and isinstance(value, int | float):
                group = "eval" if key.startswith("eval_") else "train"
                self._board.add_scalar(f"{group}/{key.removeprefix('eval_')}", value, clean["step"])

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a metrics file; an unfinished last line is left out."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)


def final_figures(path: Path) -> dict[str, Any]:
    """What the last step and the last held-out evaluation came to."""
    merged: dict[str, Any] = {}
    for line in read_metrics(path):
        merged |= line
    return {key: merged[key] for key in FINAL_FIGURES if key in merged}


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
