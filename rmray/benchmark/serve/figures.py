"""What was measured, as frozen records, and the targets that it is held against. Pure. Called by `run`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rmray.benchmark.serve.load import Loop
from rmray.benchmark.serve.settings import BARE, GROUP_SIZES, HALF, HANDLE, HTTP, IDS, PEER, TEXT, Point, ServeSettings

MIN_TO_BARE = {"5m": 0.80, "30m": 0.90}
"""By handle with token ids, of the bare forward's completions/s."""
MIN_TO_PEER = {8: 3.0, 1: 5.0}
"""Over HTTP, by completions a request, of the completions/s of the server that runs one forward a request."""
MAX_MEDIAN_FORWARDS, MAX_MEDIAN_MORE_S, MAX_P99_TO_MEDIAN = 2.0, 0.010, 4.0
"""At half load the median is at most so many forwards of one group and so many seconds more, p99 so many times it."""
MAX_NOOP_TO_PLAIN = 1.15
"""Median latency of a call through `RewardClient` to a scorer that does nothing, over a plain Serve handle call."""
CLIENT, RAW, PLAIN = "client", "scorer's handle", "plain Serve handle"


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of all replies that count, in seconds."""

    count: int
    median_s: float
    p95_s: float
    p99_s: float

    @classmethod
    def of(cls, latencies_s: Iterable[float]) -> Latencies | None:
        """None without a reply."""
        known = np.array(sorted(latencies_s))
        if not known.size:
            return None
        median, p95, p99 = (float(np.percentile(known, q)) for q in (50, 95, 99))
        return cls(known.size, median, p95, p99)


@dataclass(frozen=True, slots=True)
class ClosedFigures:
    """One Point on one model. per_s: completions a second, median of the rounds. to_bare: over the bare forward of the
    same round, median of the rounds; K 1 is held against groups of 8, which its prompts come from. latencies: of
    requests answered within the window; None of the bare forward."""

    model: str
    point: Point
    per_s: float
    of_rounds: tuple[float, ...]
    to_bare: float
    latencies: Latencies | None


@dataclass(frozen=True, slots=True)
class OpenFigures:
    """Poisson arrivals of groups of 8. share: of the completions/s at saturation by the same way. asked_per_s: groups
    a second. forward_s: the median bare forward of one group alone."""

    model: str
    transport: str
    content: str
    share: float
    asked_per_s: float
    forward_s: float
    latencies: Latencies


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """encode_share: seconds of tokenising a group's text over those of its forward, one thread each. work: see
    `work.describe`."""

    model: str
    num_parameters: int
    forward_s: float
    encode_share: float
    distances: Mapping[str, float]
    work: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class NoopFigures:
    """Calls to a scorer that does nothing. median_s: one call after the other. to_plain: the median of the rounds'
    ratios of medians. per_s: calls a second with `noop_callers` in flight."""

    name: str
    latencies: Latencies
    to_plain: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what was measured. least: the limit is a floor. at_best: what the bare forward would reach, where
    the target is no share of it."""

    what: str
    measured: float
    limit: float
    least: bool
    at_best: float | None = None

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.least else self.measured <= self.limit


@dataclass(frozen=True, slots=True)
class ServeReport:
    """All figures of a run; `verdicts` follow from them."""

    settings: ServeSettings
    machine: Mapping[str, Any]
    models: tuple[ModelFigures, ...] = ()
    closed: tuple[ClosedFigures, ...] = ()
    opened: tuple[OpenFigures, ...] = ()
    noop: tuple[NoopFigures, ...] = ()

    def to_json(self) -> dict[str, Any]:
        verdicts = [{**asdict(verdict), "met": verdict.met} for verdict in verdicts_of(self)]
        return {"kind": "serve", **asdict(self), "verdicts": verdicts}


def completions_per_s(loop: Loop) -> float:
    """Completions a second within the loop's window.

    A request counts by the part of its time in flight that lies in the window. Batches answer many requests at once: a
    count of answers would depend on whether one more of these moments falls into the window.
    """
    done = 0.0
    for reply in loop.replies:
        within_s = min(reply.answered_s, loop.end_s) - max(reply.asked_s, loop.start_s)
        done += reply.completions * max(0.0, within_s) / reply.latency_s
    return done / (loop.end_s - loop.start_s)


def latencies_of(loop: Loop) -> list[float]:
    """Of the requests answered after the window began: those before it met a queue that was still growing."""
    return [reply.latency_s for reply in loop.replies if reply.answered_s >= loop.start_s]


def summarise(
    model: str, rates: Mapping[Point, Sequence[float]], latencies: Mapping[Point, Sequence[float]]
) -> tuple[ClosedFigures, ...]:
    """rates: completions/s of each round, in the order of the rounds, for every point."""
    bare = {point.completions: of_rounds for point, of_rounds in rates.items() if point.transport == BARE}
    figures = []
    for point, of_rounds in rates.items():
        ceiling = bare[point.completions if point.completions in bare else GROUP_SIZES[0]]
        to_bare = statistics.median(mine / best for mine, best in zip(of_rounds, ceiling, strict=True))
        figures.append(
            ClosedFigures(
                model,
                point,
                statistics.median(of_rounds),
                tuple(of_rounds),
                to_bare,
                Latencies.of(latencies.get(point, ())),
            )
        )
    return tuple(figures)


def verdicts_of(report: ServeReport) -> list[Verdict]:
    """Every target whose figures are there. What is told of two rows is the median over the rounds of their ratio."""
    settings, verdicts = report.settings, list[Verdict]()
    rows = {(row.model, row.point): row for row in report.closed}
    for model in settings.models:
        for k in GROUP_SIZES:
            row = rows.get((model, Point(HANDLE, IDS, k, settings.group_callers)))
            if row is not None and model in MIN_TO_BARE:
                what = f"{model}: by handle, token ids, groups of {k}, of the bare forward"
                verdicts.append(Verdict(what, row.to_bare, MIN_TO_BARE[model], True))
        for k, limit in MIN_TO_PEER.items():
            callers = settings.group_callers if k > 1 else settings.item_callers
            ours, theirs = (rows.get((model, Point(way, TEXT, k, callers))) for way in (HTTP, PEER))
            if ours is not None and theirs is not None:
                ratios = [a / b for a, b in zip(ours.of_rounds, theirs.of_rounds, strict=True)]
                what = f"{model}: over HTTP, {k} a request, times one forward a request"
                verdicts.append(Verdict(what, statistics.median(ratios), limit, True, 1 / theirs.to_bare))
    for point in report.opened:
        if point.share == HALF and point.transport == HANDLE:
            most_s = MAX_MEDIAN_FORWARDS * point.forward_s + MAX_MEDIAN_MORE_S
            seen = point.latencies
            verdicts.append(
                Verdict(f"{point.model}: median at half load, ms", 1e3 * seen.median_s, 1e3 * most_s, False)
            )
            most_s *= MAX_P99_TO_MEDIAN
            verdicts.append(Verdict(f"{point.model}: p99 at half load, ms", 1e3 * seen.p99_s, 1e3 * most_s, False))
    verdicts += [
        Verdict("noop call, of a plain Serve handle call", row.to_plain, MAX_NOOP_TO_PLAIN, False)
        for row in report.noop
        if row.name == CLIENT
    ]
    return verdicts
