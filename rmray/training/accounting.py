"""Where a run's time went: steps, evaluations, saving, and what breaks cost. From its events and metrics; no Ray.

Called by `trainer` when a run ends, and by whoever wants to know.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rmray.training.events import read_events
from rmray.training.metrics_log import METRICS_FILE, read_metrics

SESSION_ENDS = ("finished", "failed", "interrupted")
WITHOUT_A_BREAK = ("finished", "interrupted")


@dataclass(frozen=True, slots=True)
class Account:
    """All in seconds but the counts. wall_s: of all drivers of the run, from start to end (or to their last sign of
    life). steps_s: of the steps that make up the curve, each counted once. checkpoints_s: that training waited for
    saving. recoveries_s: each from the last step before a break to the first one after it, or, where a person gave the
    command again, from then. A run that was told to stop, or stopped early and given more patience, did not break.
    lost_steps: run again."""

    wall_s: float
    steps_s: float
    evaluations_s: float
    checkpoints_s: float
    recoveries_s: tuple[float, ...]
    lost_steps: int

    @property
    def useful_share(self) -> float:
        """Share of the wall time that made steps of the curve."""
        return self.steps_s / self.wall_s if self.wall_s else 0.0


def account(run_dir: Path) -> Account:
    """Add up a run directory's events and metrics."""
    events = list(read_events(run_dir))
    lines = list(read_metrics(run_dir / METRICS_FILE))
    started = [event for event in events if event["event"] == "started"]
    return Account(
        wall_s=_wall(events, lines),
        steps_s=sum(line.get("seconds", 0.0) for line in lines),
        evaluations_s=sum(line.get("eval_seconds", 0.0) for line in lines),
        checkpoints_s=sum(event["blocked_s"] for event in events if event["event"] == "checkpoint"),
        recoveries_s=tuple(_recoveries(events)),
        lost_steps=sum(event.get("lost_steps", 0) for event in started),
    )


def format_account(figures: Account) -> str:
    """The account as a person reads it, in a line."""
    shares = [
        f"{figures.useful_share:.1%} steps",
        f"{figures.evaluations_s / max(figures.wall_s, 1e-9):.1%} evaluations",
        f"{figures.checkpoints_s / max(figures.wall_s, 1e-9):.1%} waiting for checkpoints",
    ]
    text = f"{figures.wall_s:.0f} s: {', '.join(shares)}, the rest starting and preparing"
    if figures.recoveries_s:
        text += (
            f"; {len(figures.recoveries_s)} break(s), median {statistics.median(figures.recoveries_s):.0f} s to the "
            f"next step, {figures.lost_steps} step(s) run again"
        )
    return text


def _wall(events: list[dict[str, Any]], lines: list[dict[str, Any]]) -> float:
    """Over sessions: from each `run_started` to its end, or to the last event or metrics line before the next one."""
    starts = [i for i, event in enumerate(events) if event["event"] == "run_started"]
    wall_s = 0.0
    for first, stop in pairwise([*starts, len(events)]):
        began_s = events[first]["time"]
        until_s = events[stop]["time"] if stop < len(events) else float("inf")
        ends = [event["time"] for event in events[first:stop] if event["event"] in SESSION_ENDS]
        signs = [event["time"] for event in events[first:stop]]
        signs += [line["time"] for line in lines if began_s <= line.get("time", 0.0) < until_s]
        wall_s += (ends[-1] if ends else max(signs)) - began_s
    return wall_s


def _recoveries(events: list[dict[str, Any]]) -> Iterator[float]:
    resumed_s: float | None = None
    ended = ""
    for event in events:
        if event["event"] == "run_started":
            resumed_s = event["time"]
        elif event["event"] == "started":
            if event.get("recovery_s") is not None and not (resumed_s and ended in WITHOUT_A_BREAK):
                yield min(event["recovery_s"], event["time"] - resumed_s if resumed_s else event["recovery_s"])
            resumed_s, ended = None, ""
        elif event["event"] in SESSION_ENDS:
            ended = event["event"]
