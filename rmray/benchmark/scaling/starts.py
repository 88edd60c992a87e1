"""What a series of looks at replicas says: counts over time, how long starts took, when a count was reached. Pure.

Called by `serve_runs` and `serve_validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Counts = tuple[tuple[float, int], ...]
"""Seconds and how many replicas run, from then on."""


@dataclass(frozen=True, slots=True)
class ReplicaLook:
    """Serve's account at one time. running, starting: replicas by their ids."""

    now_s: float
    running: frozenset[str]
    starting: frozenset[str]


def start_seconds(looks: Sequence[ReplicaLook]) -> tuple[float, ...]:
    """Of each replica that came to run meanwhile: from the look at which Serve first had it to that at which it ran."""
    first: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for look in looks:
        for replica in look.starting:
            first.setdefault(replica, look.now_s)
        for replica in look.running & first.keys() - seconds.keys():
            seconds[replica] = look.now_s - first[replica]
    return tuple(seconds.values())


def counts_of(running: Sequence[tuple[float, int]]) -> Counts:
    """Without the looks at which nothing had changed."""
    kept: list[tuple[float, int]] = []
    for now_s, count in running:
        if not kept or kept[-1][1] != count:
            kept.append((now_s, count))
    return tuple(kept)


def seconds_to(counts: Counts, count: int, *, from_s: float, until_s: float, falling: bool = False) -> float | None:
    """Seconds from `from_s` until so many replicas ran (falling: no more than so many); None where that never was."""
    held = -1
    for now_s, running in counts:
        if now_s <= from_s:
            held = running
    if held >= 0 and (held <= count if falling else held >= count):
        return 0.0
    for now_s, running in counts:
        if from_s < now_s <= until_s and (running <= count if falling else running >= count):
            return now_s - from_s
    return None


def replica_seconds(counts: Counts, *, end_s: float) -> float:
    """Of running replicas, from the first look to `end_s`."""
    ends = [*(now_s for now_s, _ in counts[1:]), end_s]
    return sum(running * (after_s - now_s) for (now_s, running), after_s in zip(counts, ends, strict=True))
