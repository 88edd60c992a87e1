"""The benchmark of serving: schedules, windows, percentiles and targets by hand; a loop over a real engine; the peer
beside the bundle; on Ray callers by handle and over HTTP beside the bare forward."""

from __future__ import annotations

import asyncio
import itertools
import json

import numpy as np
import pytest

from rmray.benchmark.equal import UnequalError
from rmray.benchmark.serve import run
from rmray.benchmark.serve.figures import (
    CLIENT,
    PLAIN,
    ClosedFigures,
    Latencies,
    ModelFigures,
    OpenFigures,
    ServeReport,
    completions_per_s,
    latencies_of,
    summarise,
    verdicts_of,
)
from rmray.benchmark.serve.forwards import Forwards, batches_in_order, engine_loop
from rmray.benchmark.serve.load import Loop, Reply, closed_loop, open_loop, poisson_arrivals
from rmray.benchmark.serve.noop import REQUEST, NoopScorer
from rmray.benchmark.serve.settings import (
    BARE,
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
from rmray.errors import ConfigError
from rmray.models.scorer import score_requests
from rmray.schema import ScoreRequest
from tests.serving.shutdown import shut_serve_down


class Time:
    """A clock that sleeping moves."""

    def __init__(self):
        self.now_s = 0.0

    def clock(self):
        return self.now_s

    async def sleep(self, seconds):
        self.now_s += seconds
        await asyncio.sleep(0)


def test_poisson_arrivals_have_their_rate_and_keep_to_both_limits():
    waits = np.diff(poisson_arrivals(50.0, most=20_000, seconds=1e9, seed=0))
    assert len(waits) == 19_999
    assert waits.mean() == pytest.approx(1 / 50, rel=0.03)  # four standard errors
    assert waits.std() == pytest.approx(1 / 50, rel=0.05)  # of an exponential as large as its mean
    some = poisson_arrivals(50.0, most=1000, seconds=2.0, seed=0)
    assert some[-1] <= 2.0
    assert some == poisson_arrivals(50.0, most=1000, seconds=2.0, seed=0)
    assert len(poisson_arrivals(0.001, most=5, seconds=1.0, seed=0)) == 1  # never none


def test_an_open_loop_counts_from_the_time_a_request_was_meant_to_go():
    time = Time()

    async def busy(_):
        time.now_s += 4.0  # the caller's own process stands still: nobody sends meanwhile
        return 8

    loop = asyncio.run(open_loop(busy, (1.0, 2.0, 3.0), clock=time.clock, sleep=time.sleep))
    assert [reply.asked_s for reply in loop.replies] == [1.0, 2.0, 3.0]
    assert [reply.latency_s for reply in loop.replies] == sorted(reply.latency_s for reply in loop.replies)
    assert loop.replies[-1].latency_s > 4.0  # what it waited for those before it is told


def test_the_window_of_a_closed_loop_begins_when_every_caller_had_an_answer():
    time = Time()
    order = []

    async def serve(number):
        order.append(number)
        await time.sleep(1.0)
        return 1

    loop = asyncio.run(closed_loop(serve, callers=3, seconds=6.0, clock=time.clock))
    assert sorted(order) == list(range(len(order)))  # every request once, in order
    assert sum(reply.answered_s <= loop.start_s for reply in loop.replies) >= 3
    assert loop.end_s == loop.start_s + 6.0
    assert max(reply.asked_s for reply in loop.replies) < loop.end_s <= max(r.answered_s for r in loop.replies)


def test_a_request_counts_by_its_part_in_the_window():
    # A server that answers 10 completions at once every 4 s: 2.5 a second, wherever the window lies.
    replies = tuple(Reply(4.0 * i, 4.0 * (i + 1), 10) for i in range(10))
    for start_s, end_s in ((4.0, 12.0), (5.0, 13.0), (7.9, 10.1)):
        assert completions_per_s(Loop(replies, start_s, end_s)) == pytest.approx(2.5)
    loop = Loop(replies, 9.0, 13.0)
    assert len(latencies_of(loop)) == 8  # those answered before the window are left out


def test_latencies_by_hand():
    seen = Latencies.of(float(i) for i in range(101))
    assert (seen.count, seen.median_s, seen.p95_s, seen.p99_s) == (101, 50.0, 95.0, 99.0)
    assert Latencies.of([]) is None


def test_ratios_are_of_the_same_round():
    handle, items = Point(HANDLE, IDS, 16, 8), Point(HANDLE, IDS, 1, 128)
    rates = {
        Point(BARE, IDS, 8, 0): [50.0, 100.0, 100.0],
        Point(BARE, IDS, 16, 0): [100.0, 200.0, 300.0],
        handle: [90.0, 180.0, 30.0],  # the machine was slow in the first round, something else ran in the last
        items: [25.0, 50.0, 50.0],
    }
    rows = {row.point: row for row in summarise("5m", rates, {handle: [0.5]})}
    assert rows[handle].to_bare == pytest.approx(0.9)
    assert rows[handle].per_s == 90.0
    assert rows[items].to_bare == 0.5  # over groups of 8
    assert rows[Point(BARE, IDS, 8, 0)].to_bare == 1.0
    assert rows[handle].latencies.count == 1


def report_of(*closed, opened=(), noop=()):
    return ServeReport(ServeSettings(), {}, (), tuple(closed), tuple(opened), tuple(noop))


def closed_row(model, transport, content, k, callers, to_bare, rounds):
    return ClosedFigures(model, Point(transport, content, k, callers), 1.0, tuple(rounds), to_bare, None)


@pytest.mark.parametrize(
    ("report", "measured", "met"),
    [
        (report_of(closed_row("30m", HANDLE, IDS, 8, 8, 0.91, [1])), 0.91, True),
        (report_of(closed_row("30m", HANDLE, IDS, 16, 8, 0.89, [1])), 0.89, False),
        (report_of(closed_row("5m", HANDLE, IDS, 8, 8, 0.81, [1])), 0.81, True),
        (
            report_of(
                closed_row("5m", HTTP, TEXT, 8, 8, 1, [30, 60]), closed_row("5m", PEER, TEXT, 8, 8, 0.25, [10, 10])
            ),
            4.5,
            True,
        ),
        (
            report_of(closed_row("5m", HTTP, TEXT, 1, 128, 1, [45]), closed_row("5m", PEER, TEXT, 1, 128, 0.25, [10])),
            4.5,
            False,
        ),
    ],
)
def test_targets_of_throughput(report, measured, met):
    (verdict,) = verdicts_of(report)
    assert verdict.measured == pytest.approx(measured)
    assert verdict.met is met
    assert verdict.at_best in (None, 4.0)  # the peer's own share of the bare forward, turned round


def test_targets_of_latency_and_of_a_noop_call():
    point = OpenFigures("5m", HANDLE, IDS, 0.5, 3.0, 0.050, Latencies(100, 0.109, 0.3, 0.45))
    others = [
        OpenFigures("5m", HANDLE, IDS, 0.9, 3.0, 0.050, Latencies(100, 9, 9, 9)),
        OpenFigures("5m", HTTP, TEXT, 0.5, 3.0, 0.050, Latencies(100, 9, 9, 9)),
    ]
    median, p99 = verdicts_of(report_of(opened=[point, *others]))
    assert median.limit == pytest.approx(110.0)
    assert median.met
    assert p99.limit == pytest.approx(440.0)
    assert not p99.met
    rounds = [{PLAIN: [1.0, 1.0, 9.0], CLIENT: [1.1, 1.2, 1.3]}] * 3
    rows = run.noop_figures(rounds, {PLAIN: [100.0], CLIENT: [80.0]})
    (verdict,) = verdicts_of(report_of(noop=rows))
    assert verdict.measured == pytest.approx(1.2)
    assert not verdict.met


def test_the_default_run_has_every_target_and_the_report_is_json():
    settings = ServeSettings()
    rows = [
        closed_row(model, p.transport, p.content, p.completions, p.callers, 1.0, [1.0])
        for model in settings.models
        for p in points_of(model, settings)
        if p.replicas == 1
    ]
    opened = [
        OpenFigures(model, transport, IDS, share, 1.0, 1.0, Latencies(1, 1, 1, 1))
        for model in settings.models
        for transport, share in shares_of(model, settings)
    ]
    report = report_of(*rows, opened=opened)
    named = [verdict.what for verdict in verdicts_of(report)]
    assert len(named) == len(set(named)) == 2 * (2 + 2 + 2)
    assert "verdicts" in json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert set(points_of("30m", settings)) < set(points_of("30m", settings, whole=True))


def test_a_loop_over_a_real_engine_in_this_process():
    loop = asyncio.run(engine_loop(NoopScorer(), [REQUEST], callers=2, seconds=0.05))
    assert {reply.completions for reply in loop.replies} == {8}
    assert completions_per_s(loop) > 0
    (response,) = score_requests(NoopScorer(), [REQUEST])
    assert [r.raw for r in response.results] == [0.0] * 8


@pytest.fixture(scope="module")
def tiny_work(bundle_dir):
    """Groups of 16 short texts, with the bundle's own ids."""
    from rmray.benchmark.serve.work import make_work
    from rmray.models.bundle import load_bundle

    words = ("lazy dog", "quick fox", "answer", "five")
    groups = [
        ScoreRequest(
            prompt=f"Question: what is {i}?", completions=tuple(f" The {words[k % 4]} {k}." for k in range(16))
        )
        for i in range(3)
    ]
    return make_work(groups, load_bundle(bundle_dir, check=False))


def test_the_same_work_as_ids_as_text_and_taken_apart(bundle_dir, tiny_work):
    forwards = Forwards(bundle_dir, tiny_work, 1)
    whole = asyncio.run(forwards.scores((IDS, 8), 1))
    assert len(whole) == 8
    assert asyncio.run(forwards.scores((TEXT, 8), 1)) == pytest.approx(whole, abs=1e-5)
    assert asyncio.run(forwards.scores((IDS, 1), 8)) == pytest.approx(whole, abs=1e-5)
    assert asyncio.run(forwards.scores((IDS, 16), 1))[:8] == pytest.approx(whole, abs=1e-5)
    assert asyncio.run(forwards.bare((IDS, 8), 0.01)) > 0
    assert asyncio.run(forwards.one_forward_s((IDS, 8))) > 0


def test_the_ceiling_is_of_the_requests_that_callers_ask_for_first(bundle_dir, tiny_work):
    assert list(itertools.islice(batches_in_order([3, 9, 2, 2, 1], 5), 5)) == [[0], [1], [2, 3, 4], [0], [1]]

    class Noted:
        def __init__(self, scorer):
            self.encode, self._forward, self.batches = scorer.encode, scorer.forward, []

        def forward(self, batch):
            self.batches.append([e.request for e in batch])
            return self._forward(batch)

    forwards = Forwards(bundle_dir, tiny_work, 1)
    forwards._scorer = Noted(forwards._scorer)
    for _ in range(2):
        asyncio.run(forwards.bare((IDS, 8), 1e-9))
    assert [batch[0] for batch in forwards._scorer.batches] == [tiny_work[IDS, 8][0]] * 2


def test_the_peer_scores_as_the_bundle_does(bundle_dir, tiny_work):
    from starlette.testclient import TestClient

    from rmray.benchmark.serve.callers import SCORES, query_body
    from rmray.benchmark.serve.peer import ROUTE, build_peer

    bare = asyncio.run(Forwards(bundle_dir, tiny_work, 1).scores((TEXT, 8), 2))
    with TestClient(build_peer(bundle_dir)) as client:
        answers = [client.post(ROUTE, content=query_body("", request)).json() for request in tiny_work[TEXT, 8][:2]]
    assert [score for answer in answers for score in SCORES[PEER](answer)] == pytest.approx(bare, abs=1e-4)


def test_on_ray_all_ways_score_alike_and_loops_count_what_came_back(ray_cluster, bundle_dir, tiny_work):
    from rmray.benchmark.serve.callers import Door
    from rmray.benchmark.serve.cluster import callers, forwards, served
    from rmray.serving.app.cluster import ensure_http, free_port

    ensure_http(free_port("127.0.0.1"))
    try:
        with (
            forwards(bundle_dir, tiny_work, 1) as bare,
            callers(tiny_work) as calling,
            served("bench", bundle_dir, replicas=1, threads=1) as doors,
        ):
            expected = bare.scores((IDS, 8), 2)
            for door, content in ((doors[HANDLE], IDS), (doors[HANDLE], TEXT), (doors[HTTP], TEXT), (doors[HTTP], IDS)):
                assert calling.scores(door, (content, 8), 2) == pytest.approx(expected, abs=1e-4)
            loop = calling.closed(doors[HANDLE], (IDS, 8), 2, 0.1)
            assert completions_per_s(loop) > 0
            assert len(calling.opened(doors[HTTP], (TEXT, 1), (0.0, 0.01)).replies) == 2
            nowhere = Door(HTTP, doors[HTTP].address.replace("rewards", "nothing"), "bench")
            with pytest.raises(Exception, match="404"):
                calling.scores(nowhere, (TEXT, 8), 1)
    finally:
        shut_serve_down()


def test_haproxy_is_for_a_ray_that_the_run_starts_itself(ray_cluster):
    from rmray.benchmark.serve.cluster import cluster

    with pytest.raises(ConfigError, match="runs already"), cluster(haproxy=True):
        raise AssertionError("it has begun")


def test_unequal_scores_stop_the_run():
    class Skewed:
        def scores(self, *asked):
            return [1.0, 2.0]

    class Forward:
        def scores(self, *asked):
            return [1.0, 2.001]

    subject = run._Subject("5m", Forward(), Skewed(), None, {1: {HANDLE: None, HTTP: None}})
    with pytest.raises(UnequalError):
        run.check_equal(subject)


def test_tables_and_plots_of_a_report(tmp_path, capsys):
    from rmray.benchmark.serve.show import plot_serve, print_serve

    lengths = {"prompt_tokens": 120.0, "completion_tokens": 40.0, "prompt_chars": 480.0, "padded": 3.0}
    model = ModelFigures("5m", 5_000_000, 0.05, 0.04, {"http, text, K 8": 1e-6}, lengths)
    bare, handle = Point(BARE, IDS, 8, 0), Point(HANDLE, IDS, 8, 8)
    closed = summarise("5m", {bare: [100.0], handle: [79.0]}, {handle: [0.2, 0.3]})
    opened = OpenFigures("5m", HANDLE, IDS, 0.5, 5.0, 0.05, Latencies(9, 0.1, 0.2, 0.3))
    noop = run.noop_figures([{PLAIN: [1.0], CLIENT: [1.1]}], {PLAIN: [9.0], CLIENT: [8.0]})
    report = ServeReport(ServeSettings(), {}, (model,), closed, (opened,), tuple(noop))
    print_serve(report)
    shown = capsys.readouterr().out
    assert "0.790" in shown
    assert [shown.count(word) for word in ("MISSED", "met")] == [1, 3]
    assert [path.stat().st_size > 1000 for path in plot_serve(report, tmp_path)] == [True, True]
