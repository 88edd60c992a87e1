"""Where the time went, added up by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmray.training.accounting import account, format_account


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_over_two_drivers_with_two_breaks(tmp_path: Path) -> None:
    write(
        tmp_path / "events.jsonl",
        [
            {"time": 100.0, "event": "run_started"},
            {"time": 110.0, "event": "started", "step": 0, "lost_steps": 0, "recovery_s": None},
            {"time": 120.0, "event": "checkpoint", "step": 5, "blocked_s": 0.5},
            {"time": 121.0, "event": "checkpoint", "step": 10, "blocked_s": 1.5},
            {"time": 150.0, "event": "started", "step": 10, "lost_steps": 3, "recovery_s": 25.0},
            {"time": 151.0, "event": "checkpoint", "step": 15, "blocked_s": 0.25},
            # killed; its last sign of life is the metrics line at 160
            {"time": 200.0, "event": "run_started"},
            {"time": 230.0, "event": "started", "step": 15, "lost_steps": 1, "recovery_s": 70.0},
            {"time": 240.0, "event": "finished", "step": 20},
        ],
    )
    write(
        tmp_path / "metrics.jsonl",
        [{"step": s, "loss": 0.5, "seconds": 2.0, "time": 159.0 + s} for s in range(2)]
        + [{"step": 19, "eval_loss": 0.4, "eval_seconds": 3.0, "time": 239.0}],
    )
    figures = account(tmp_path)
    assert figures.wall_s == 60.0 + 40.0
    assert figures.steps_s == 4.0
    assert figures.evaluations_s == 3.0
    assert figures.checkpoints_s == 2.25
    assert figures.recoveries_s == (25.0, 30.0)
    assert figures.lost_steps == 4
    assert figures.useful_share == pytest.approx(0.04)
    text = format_account(figures)
    assert "4.0% steps" in text
    assert "2 break(s), median 28 s" in text


@pytest.mark.parametrize("end", ["interrupted", "finished"])
def test_only_what_broke_is_a_break(tmp_path: Path, end: str) -> None:
    went_on = {"event": "started", "step": 10, "lost_steps": 0, "recovery_s": 1000.0}
    write(
        tmp_path / "events.jsonl",
        [
            {"time": 100.0, "event": "run_started"},
            {"time": 110.0, "event": "started", "step": 0, "lost_steps": 0, "recovery_s": None},
            {"time": 120.0, "event": end, "step": 10},
            {"time": 1100.0, "event": "run_started"},
            {"time": 1120.0, **went_on},  # and is killed
            {"time": 1200.0, "event": "run_started"},
            {"time": 1230.0, **went_on},
        ],
    )
    assert account(tmp_path).recoveries_s == (30.0,)


def test_a_run_that_never_began_costs_nothing(tmp_path: Path) -> None:
    assert account(tmp_path).useful_share == 0.0
