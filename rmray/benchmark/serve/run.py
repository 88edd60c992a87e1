"""Measure a served model: equality first, then rounds in which all points take turns. Called by the command line.

Every point of a round has its turn after the other; the bare forward has one in each round too, and what is told of a
point is its ratio to the bare forward of its own round. Bare forwards, replicas and the peer are processes of one
thread each, all callers are one more process.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rmray.benchmark.equal import check_scores, tolerance_of
from rmray.benchmark.serve.callers import Door
from rmray.benchmark.serve.figures import (
    PLAIN,
    ClosedFigures,
    Latencies,
    ModelFigures,
    NoopFigures,
    OpenFigures,
    ServeReport,
    completions_per_s,
    latencies_of,
    summarise,
)
from rmray.benchmark.serve.load import poisson_arrivals
from rmray.benchmark.serve.settings import (
    BARE,
    ENGINE,
    HANDLE,
    HTTP,
    IDS,
    PEER,
    TEXT,
    Point,
    ServeSettings,
    points_of,
    shares_of,
)
from rmray.benchmark.shapes import SHAPES
from rmray.errors import ConfigError

CHECKED_REQUESTS = 4
NOOP_SECONDS = 2.0
Say = Callable[[str], None]
Kind = tuple[str, int]


@dataclass(slots=True)
class _Subject:
    """One model, served. replicas: doors of each number of replicas. forwards, callers: the two processes."""

    model: str
    forwards: Any
    callers: Any
    peer: Door
    replicas: dict[int, dict[str, Door]] = field(default_factory=dict)

    def door(self, point: Point) -> Door:
        return self.peer if point.transport == PEER else self.replicas[point.replicas][point.transport]


def run_serve(
    settings: ServeSettings,
    *,
    whole: bool = False,
    save: Callable[[ServeReport], Any] = lambda _: None,
    say: Say = print,
) -> ServeReport:
    """Measure everything on a Ray of our own, or on the one that this process is connected to.

    whole: every point on every model. save: told of the report after each model: a later one may break off.
    Raises ConfigError for a model that is none, UnequalError where two ways do not give the same scores.
    """
    from rmray.benchmark.report import machine_facts
    from rmray.benchmark.serve.cluster import cluster
    from rmray.benchmark.serve.work import Town, make_bundle

    for model in settings.models:
        if model not in SHAPES:
            raise ConfigError(f"{model!r} is no shape", where="--model", why=f"shapes: {', '.join(SHAPES)}")
    report = ServeReport(settings, machine_facts("cpu"))
    with tempfile.TemporaryDirectory(prefix="rmray-serve-") as directory:
        town = Town.write(Path(directory), settings.seed)
        bundles = {}
        for model in settings.models:
            say(f"{model}: making a bundle")
            bundles[model] = make_bundle(town, model, settings.seed)
        with cluster(haproxy=settings.haproxy):
            report = _with(report, noop=_measure_noop(settings, say))
            save(report)
            for model, bundle in bundles.items():
                report = _measure_model(report, town, model, bundle, whole, say)
                save(report)
    return report


def _with(report: ServeReport, **more: Sequence[Any]) -> ServeReport:
    """The report with more figures at the end of some of its lists."""
    changed: dict[str, Any] = {name: (*getattr(report, name), *figures) for name, figures in more.items()}
    return replace(report, **changed)


def _measure_model(report: ServeReport, town: Any, model: str, bundle: Path, whole: bool, say: Say) -> ServeReport:
    from rmray.benchmark.serve.cluster import callers, forwards, served
    from rmray.benchmark.serve.peer import serving_peer
    from rmray.benchmark.serve.work import describe, make_groups, make_work
    from rmray.models.bundle import load_bundle
    from rmray.serving.app.cluster import free_port

    settings = report.settings
    scorer = load_bundle(bundle, check=False)
    lengths = {"prompt_chars": settings.prompt_chars, "completion_chars": settings.completion_chars}
    work = make_work(make_groups(town, settings.num_groups, settings.seed, **lengths), scorer)
    described = describe(work, scorer)
    points = points_of(model, settings, whole=whole)
    with ExitStack() as stack:
        say(f"{model}: starting what is measured")
        url = stack.enter_context(serving_peer(bundle, port=free_port("127.0.0.1"), threads=settings.threads))
        subject = _Subject(
            model,
            stack.enter_context(forwards(bundle, work, settings.threads)),
            stack.enter_context(callers(work)),
            Door(PEER, url),
        )
        for number in sorted({point.replicas for point in points}):
            name = f"rm-{model.replace('.', '-')}-{number}"
            doors = served(name, bundle, replicas=number, threads=settings.threads)
            subject.replicas[number] = stack.enter_context(doors)
        distances = check_equal(subject)
        say(f"{model}: equal before timing, largest distance {max(distances.values()):.1e}")
        forward_s = subject.forwards.one_forward_s((IDS, 8))
        figures = ModelFigures(
            model,
            num_parameters=_num_parameters(scorer),
            forward_s=forward_s,
            encode_share=subject.forwards.encode_s((TEXT, 8)) / forward_s,
            distances=distances,
            work=described,
        )
        closed = _closed(subject, points, settings, say)
        opened = _opened(subject, closed, forward_s, settings, whole, say)
    return _with(report, models=[figures], closed=closed, opened=opened)


def _num_parameters(scorer: Any) -> int:
    return sum(parameter.numel() for parameter in scorer.backbone.model.parameters())


def check_equal(subject: _Subject) -> dict[str, float]:
    """Distance of every way's scores from those of the bare forward, request by request. Raises UnequalError."""
    distances = {}
    doors = {HANDLE: subject.replicas[1][HANDLE], HTTP: subject.replicas[1][HTTP], PEER: subject.peer}
    for content, transport in ((IDS, HANDLE), (TEXT, HANDLE), (TEXT, HTTP), (IDS, HTTP), (TEXT, PEER)):
        for k in (8, 1):
            bare = subject.forwards.scores((IDS, k), CHECKED_REQUESTS)
            found = subject.callers.scores(doors[transport], (content, k), CHECKED_REQUESTS)
            name = f"{transport}, {content}, K {k}"
            distances[name] = check_scores(name, found, bare, tolerance_of("float32"))
    return distances


def _closed(subject: _Subject, points: Sequence[Point], settings: ServeSettings, say: Say) -> tuple[ClosedFigures, ...]:
    rates: dict[Point, list[float]] = {point: [] for point in points}
    latencies: dict[Point, list[float]] = {point: [] for point in points}
    for round_ in range(settings.rounds):
        for place in range(len(points)):
            point = points[(place + round_) % len(points)]
            rate, seen = _measure(subject, point, settings.seconds)
            rates[point].append(rate)
            latencies[point] += seen
            say(f"{subject.model}: round {round_ + 1} of {settings.rounds}: {point.name}: {rate:.1f} completions/s")
    return summarise(subject.model, rates, latencies)


def _measure(subject: _Subject, point: Point, seconds: float) -> tuple[float, list[float]]:
    """Completions a second, and the latencies."""
    kind = (point.content, point.completions)
    if point.transport == BARE:
        return subject.forwards.bare(kind, seconds), []
    if point.transport == ENGINE:
        loop = subject.forwards.engine(kind, point.callers, seconds)
    else:
        loop = subject.callers.closed(subject.door(point), kind, point.callers, seconds)
    return completions_per_s(loop), latencies_of(loop)


def _opened(
    subject: _Subject,
    closed: Sequence[ClosedFigures],
    forward_s: float,
    settings: ServeSettings,
    whole: bool,
    say: Say,
) -> list[OpenFigures]:
    """Offered load as shares of the groups/s measured at saturation, by handle with ids and over HTTP with text."""
    saturation = {
        (row.point.transport, row.point.content): row.per_s
        for row in closed
        if (row.point.completions, row.point.callers, row.point.replicas) == (8, settings.group_callers, 1)
    }
    figures = []
    for transport, share in shares_of(subject.model, settings, whole=whole):
        content = TEXT if transport == HTTP else IDS
        per_s = share * saturation[transport, content] / 8
        arrivals_s = poisson_arrivals(
            per_s, most=settings.open_requests, seconds=settings.open_seconds, seed=settings.seed
        )
        loop = subject.callers.opened(subject.replicas[1][transport], (content, 8), arrivals_s)
        seen = Latencies.of(reply.latency_s for reply in loop.replies)
        assert seen is not None  # there is one arrival at least
        figures.append(OpenFigures(subject.model, transport, content, share, per_s, forward_s, seen))
        say(f"{subject.model}: {transport} at {share:.0%}: median {1e3 * seen.median_s:.0f} ms of {seen.count}")
    return figures


def _measure_noop(settings: ServeSettings, say: Say) -> list[NoopFigures]:
    """Calls that take turns one by one, in as many rounds; then so many in flight."""
    from rmray.benchmark.serve.cluster import callers, served_noop

    say("noop: starting")
    with served_noop() as app, callers({}) as calling:
        rounds: list[Mapping[str, list[float]]] = []
        per_s: dict[str, list[float]] = {}
        for round_ in range(settings.rounds):
            rounds.append(calling.noop(app, math.ceil(settings.noop_calls / settings.rounds)))
            for name in rounds[0]:
                rate = calling.noop_per_s(app, name, settings.noop_callers, min(NOOP_SECONDS, settings.seconds))
                per_s.setdefault(name, []).append(rate)
            say(f"noop: round {round_ + 1} of {settings.rounds}")
    return noop_figures(rounds, per_s)


def noop_figures(
    rounds: Sequence[Mapping[str, Sequence[float]]], per_s: Mapping[str, Sequence[float]]
) -> list[NoopFigures]:
    """rounds: of each, seconds of every call by its kind. per_s: calls a second of each round."""
    figures = []
    for name in rounds[0]:
        seen = Latencies.of(s for of_kinds in rounds for s in of_kinds[name])
        assert seen is not None
        to_plain = statistics.median(statistics.median(r[name]) / statistics.median(r[PLAIN]) for r in rounds)
        figures.append(NoopFigures(name, seen, to_plain, statistics.median(per_s[name])))
    return figures
