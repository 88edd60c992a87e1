"""The simulation of serving: closed forms of queues, the real engine's batches, scaling by hand, nothing lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import threading
import warnings
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from rmray.benchmark.scaling.app import SimulatedApp
from rmray.benchmark.scaling.autoscaler import Autoscaler, LoadReports, ScalingSettings
from rmray.benchmark.scaling.cost import ForwardCost, assumed_cost, fit_cost
from rmray.benchmark.scaling.engine_runs import Measured
from rmray.benchmark.scaling.events import Events, every
from rmray.benchmark.scaling.figures import Figures, scaling_lag_s
from rmray.benchmark.scaling.grid import GridCell, GridReport, GridSettings, Policy, choose, judge, run_grid
from rmray.benchmark.scaling.load import Burst, Call, Constant, Group, Sine, Step, measure_groups, poisson_arrivals
from rmray.benchmark.scaling.plots import plot_grid, print_grid, print_validation
from rmray.benchmark.scaling.records import Actors, Deployment, Look
from rmray.benchmark.scaling.replica import SimulatedReplica
from rmray.benchmark.scaling.routing import choose_replica
from rmray.benchmark.scaling.simulation import simulate_actors, simulate_arrivals, simulate_callers
from rmray.benchmark.scaling.validation import Comparison, ValidationReport, ValidationSettings, validate
from rmray.benchmark.shapes import SHAPES, Shape
from rmray.benchmark.workloads import Workload, make_groups
from rmray.config.serve import ServeOptions
from rmray.schema import ScoreRequest
from rmray.serving.batching import BatchLimits
from rmray.serving.engine import EngineLimits, ScoringEngine
from tests.fakes import ArithmeticScorer

ONE_SECOND = ForwardCost("a forward takes a second", base_s=1.0, token_s=0.0)
BY_TOKENS = ForwardCost("a thousand tokens a second", base_s=0.05, token_s=0.001)
GROUP = Group(tokens=100, pairs=0, max_path_len=50, completions=4)
ALONE = Deployment(
    cost=ONE_SECOND, max_batch_tokens=100, max_ongoing_requests=10**9, max_queued_tokens=10**9, call_s=0.0
)


def arrivals(rate: float, end_s: float, seed: int = 0) -> list[tuple[float, Group]]:
    return [(when_s, GROUP) for when_s in poisson_arrivals(Constant(rate), end_s, random.Random(seed))]


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_the_mean_wait_of_one_at_a_time_is_that_of_pollaczek_and_khinchine(load):
    outcome = simulate_arrivals(ALONE, arrivals(load, 25_000))
    wait_s = np.mean(outcome.latencies_s) - 1
    assert wait_s == pytest.approx(load / (2 * (1 - load)), rel=0.05)
    assert outcome.busy_s == pytest.approx(outcome.num_calls)
    assert outcome.busy_s / outcome.end_s == pytest.approx(load, rel=0.02)


def test_littles_law():
    app = SimulatedApp(replace(ALONE, cost=BY_TOKENS, max_batch_tokens=400, replicas=2))
    handle, calls, open_calls = app.handle(), arrivals(8.0, 2_000), []
    for when_s, group in calls:
        app.events.at(when_s, app.send, handle, Call(group, when_s, math.inf, lambda call: None))
    every(app.events, 0.05, lambda: open_calls.append(app.num_open))
    outcome = app.run(2_000)
    arrival_rate = outcome.num_calls / 2_000
    assert np.mean(open_calls) == pytest.approx(arrival_rate * np.mean(outcome.latencies_s), rel=0.01)


@pytest.mark.parametrize("replicas", [1, 3])
def test_saturated_replicas_make_a_full_batch_each_forward(replicas):
    deployment = replace(ALONE, cost=BY_TOKENS, max_batch_tokens=400, replicas=replicas)
    outcome = simulate_callers(deployment, [[GROUP]] * (16 * replicas), end_s=500)
    assert outcome.completions / 500 == pytest.approx(replicas * 4 * 4 / 0.45, rel=0.02)
    assert outcome.busy_s / outcome.running_s == pytest.approx(1, abs=0.02)


def test_what_comes_at_one_time_makes_one_batch():
    outcome = simulate_callers(replace(ALONE, cost=BY_TOKENS, max_batch_tokens=400), [[GROUP]] * 4, end_s=100)
    assert (outcome.num_batches, outcome.num_calls) == (223, 4 * 222)  # 0.45 s each, one under way at the end


def small(seed: int = 0):
    """An app that scales, refuses, lets deadlines pass and drains, under a step of actors."""
    scaling = ScalingSettings(
        max_replicas=6, target_tokens=300, upscale_delay_s=2, downscale_delay_s=5, metrics_interval_s=1
    )
    deployment = Deployment(
        cost=replace(BY_TOKENS, errors=(0.9, 1.0, 1.1)),
        scaling=scaling,
        max_batch_tokens=500,
        max_queued_tokens=600,
        max_ongoing_requests=9,
        start_s=3,
    )
    actors = Actors(num_actors=40, groups_per_step=4, generate_s=8, timeout_s=12)
    return simulate_actors(
        deployment, actors, Step(4, 40, 20, 60), [GROUP, replace(GROUP, tokens=37)], end_s=120, seed=seed
    )


def test_the_same_seed_gives_the_same_run():
    one, again, other = small(), small(), small(seed=1)
    assert one == again
    assert one.latencies_s != other.latencies_s
    assert one.rejections


def test_every_call_is_answered_once():
    scaling = ScalingSettings(
        max_replicas=5, target_tokens=300, upscale_delay_s=1, downscale_delay_s=2, metrics_interval_s=1
    )
    app = SimulatedApp(
        Deployment(
            cost=BY_TOKENS,
            scaling=scaling,
            max_batch_tokens=500,
            max_queued_tokens=700,
            max_ongoing_requests=8,
            start_s=2,
        )
    )
    handles = itertools.cycle([app.handle() for _ in range(7)])
    ends, rate = Counter(), Step(2, 60, 10, 40)
    for when_s in poisson_arrivals(rate, 60, random.Random(3)):
        call = Call(GROUP, when_s, when_s + 6, lambda call: ends.update([id(call)]))
        app.events.at(when_s, app.send, next(handles), call)
        ends[id(call)] = 0
    outcome = app.run(90)
    assert set(ends.values()) == {1}
    assert outcome.num_calls + outcome.failures.total() == len(ends)
    assert outcome.num_calls
    assert outcome.failures["deadline"]
    assert outcome.rejections
    assert app.num_open == app.num_pending == 0
    assert max(len(app.members), len(app.running)) == 1  # back at the least, the others drained


# The engine


class SteppedScorer(ArithmeticScorer):
    """A forward waits until it is let through, and writes its batch down."""

    def __init__(self):
        super().__init__()
        self.through, self.entered, self.batches = threading.Semaphore(0), threading.Semaphore(0), []

    def forward(self, batch):
        self.batches.append(tuple(int(e.request.id) for e in batch))
        self.entered.release()
        assert self.through.acquire(timeout=10)
        return super().forward(batch)


def test_a_replicas_batches_are_those_that_the_engine_makes_of_the_same_arrivals():
    rng = random.Random(5)
    requests = [
        ScoreRequest(
            prompt="p" * rng.randint(1, 60), completions=("a" * rng.randint(1, 30), "b" * rng.randint(1, 30)), id=str(i)
        )
        for i in range(60)
    ]
    scorer = SteppedScorer()
    groups = measure_groups([e.group for e in scorer.encode(requests)])
    times = list(itertools.accumulate(rng.expovariate(12.0) for _ in requests))
    ends: dict[float, list[int]] = {}
    app = SimulatedApp(replace(ALONE, cost=BY_TOKENS, max_batch_tokens=300, patience_s=0.5), keep_batches=True)
    handle, names = app.handle(), {}
    for i, (when_s, group) in enumerate(zip(times, groups, strict=True)):
        call = Call(group, when_s, math.inf, lambda call: ends.setdefault(app.events.now_s, []).append(names[id(call)]))
        names[id(call)] = i
        app.events.at(when_s, app.send, handle, call)
    app.run(1_000)
    simulated = [tuple(names[id(call)] for call in batch) for batch in app.members[0].replica.batches]
    assert max(map(len, simulated)) > 2

    now_s = 0.0

    async def replay() -> None:
        nonlocal now_s
        engine = ScoringEngine(scorer, EngineLimits(300, 10**6, patience_s=0.5), clock=lambda: now_s)
        engine.start()
        tasks, busy = [], False
        for when_s, arrived in sorted([*((t, i) for i, t in enumerate(times)), *((t, None) for t in ends)]):
            now_s = when_s
            if arrived is not None:
                tasks.append(asyncio.create_task(engine.score([requests[arrived]])))
                before = engine.num_waiting
                if busy:
                    while engine.num_waiting == before:
                        await asyncio.sleep(0)
            else:
                waiting = engine.num_waiting
                scorer.through.release()
                while sum(task.done() for task in tasks) < sum(len(done) for t, done in ends.items() if t <= when_s):
                    await asyncio.sleep(0)
                busy = False
                if not waiting:
                    continue
            if not busy:
                assert await asyncio.to_thread(scorer.entered.acquire, True, 10)
                busy = True
        await engine.aclose()

    asyncio.run(asyncio.wait_for(replay(), 30))
    assert simulated == scorer.batches


# Scaling


def test_a_mean_over_time_is_rays_own():
    from ray.serve._private.common import TimeStampedValue
    from ray.serve._private.metrics_utils import aggregate_timeseries
    from ray.serve.config import AggregationFunction

    rng, reports = random.Random(0), LoadReports(look_back_s=30)
    points = [(6.0 * i, rng.uniform(0, 1e5)) for i in range(12)]
    for when_s, value in points:
        reports.note("replica", when_s, value)
    reports.push("replica", 70.0)
    reported = [TimeStampedValue(when_s, value) for when_s, value in points if when_s >= 40]
    theirs = aggregate_timeseries(reported, AggregationFunction.MEAN, last_window_s=75.0 - 66.0)
    assert reports.mean("replica", 75.0) == pytest.approx(theirs)
    assert reports.mean("unknown", 75.0) == 0


def test_delays_are_counted_from_when_the_load_first_asks_for_another_number():
    settings = ScalingSettings(
        max_replicas=8, target_tokens=100, upscale_delay_s=10, downscale_delay_s=20, metrics_interval_s=2.5
    )
    reports, autoscaler, target, seen = LoadReports(5), Autoscaler(settings), 1, []
    for second in range(100):
        reports.note("replica", second, 450.0 if 10 <= second < 50 else 0.0)
        reports.push("replica", second)
        before = target
        target = autoscaler.decide(reports, ["replica"], "handles", target=target, mean_call_tokens=0, now_s=second)
        if target != before:
            seen.append((second, target))
    # Of points of one second, the mean over the last five reaches 75 (of 450) at 11, which asks for no more than one,
    # 150 at 12; ten seconds later it is 450: five replicas. It falls to 375 (four) at 51, and twenty seconds on to 0.
    assert seen == [(22, 5), (71, 1)]


def test_the_simulation_begins_with_the_options_that_are_shipped():
    options = ServeOptions()
    shipped = {name: getattr(options, name) for name in ServeOptions.model_fields if name != "max_replicas"}
    for simulated in (ScalingSettings(), Deployment(cost=ONE_SECOND), Policy()):
        told = {name: value for name, value in asdict(simulated).items() if name in shipped}
        assert told == {name: shipped[name] for name in told}
    assert Policy().target_batches == options.target_tokens / options.max_batch_tokens


def test_replicas_that_are_being_started_are_not_taken_back_for_want_of_load():
    with warnings.catch_warnings(action="error"):
        autoscaler, reports = Autoscaler(ScalingSettings(min_replicas=0, metrics_interval_s=10)), LoadReports(20)
    reports.note("handles", 0.0, 1.0)
    reports.push("handles", 0.0)
    assert autoscaler.decide(reports, [], "handles", target=3, mean_call_tokens=0, now_s=1.0) == 3
    assert autoscaler.decide(reports, [], "handles", target=0, mean_call_tokens=0, now_s=1.0) == 1


def test_replicas_come_after_their_time_and_leave_when_they_are_drained():
    scaling = ScalingSettings(
        max_replicas=4, target_tokens=100, upscale_delay_s=2, downscale_delay_s=4, metrics_interval_s=0.5
    )
    app = SimulatedApp(replace(ALONE, scaling=scaling, start_s=5, max_ongoing_requests=1))
    looks = []
    every(app.events, 0.5, lambda: looks.append((app.events.now_s, len(app.running), len(app.members))))
    for _ in range(40):
        app.events.at(10.0, app.send, app.handle(), Call(GROUP, 10.0, math.inf, lambda call: None))
    outcome = app.run(60)
    members = {when_s: count for when_s, _, count in looks}
    running = {when_s: count for when_s, count, _ in looks}
    assert members[12.0] == 1
    asked_s = min(t for t, count in members.items() if count == 4)
    assert 12.0 < asked_s <= 14.0
    assert max(running[t] for t in running if t < asked_s + 5 - 0.5) == 1
    assert running[asked_s + 5] == 4
    assert outcome.num_calls == 40
    assert outcome.end_s == 60
    assert (members[59.5], running[59.5]) == (1, 1)


def test_of_two_replicas_the_less_busy_takes_the_call_and_none_where_both_are_full():
    def replica(ongoing):
        one = SimulatedReplica(
            Events(), ONE_SECOND, BatchLimits(1), max_queued_tokens=1, rng=random.Random(), answer=print
        )
        one.num_ongoing = ongoing
        return one

    rng, (idle, busy, full) = random.Random(0), map(replica, (0, 3, 5))
    assert {choose_replica([busy, idle], 5, rng) for _ in range(20)} == {idle}
    assert {choose_replica([full, full], 5, rng), choose_replica([full], 5, rng)} == {None}
    counts = Counter(choose_replica([idle, busy, full], 5, rng) for _ in range(3000))
    assert counts[idle] / 3000 == pytest.approx(2 / 3, abs=0.03)
    assert counts[busy] / 3000 == pytest.approx(1 / 3, abs=0.03)


# Costs and loads


def test_a_fit_finds_the_terms_that_made_the_times():
    rng = np.random.default_rng(0)
    tokens, pairs = rng.uniform(100, 16_000, 40), rng.uniform(1e4, 1e8, 40)
    fitted = fit_cost("x", tokens, pairs, 0.01 + 1e-5 * tokens + 3e-9 * pairs)
    assert (fitted.base_s, fitted.token_s, fitted.pair_s) == pytest.approx((0.01, 1e-5, 3e-9), rel=1e-6)
    assert fitted.spread < 1e-6
    noisy = fit_cost("x", tokens, pairs, (0.01 + 1e-5 * tokens) * rng.normal(1, 0.05, 40))
    assert noisy.pair_s == 0
    assert noisy.spread == pytest.approx(0.05, rel=0.3)


def test_a_fit_of_forwards_that_spread_far_takes_what_they_took():
    rng = np.random.default_rng(0)
    tokens = rng.uniform(100, 4_000, 400)
    seconds = (0.02 + 1e-4 * tokens) * rng.lognormal(0, 0.35, 400)
    fitted = fit_cost("x", tokens, tokens**2, seconds)
    assert np.mean(fitted.errors) == pytest.approx(1)
    assert sum(fitted.seconds(n, n**2) for n in tokens) == pytest.approx(seconds.sum(), rel=0.05)


def test_an_assumed_cost_is_a_forwards_operations():
    shape = Shape(8, 2, 24, 2, 1, 4, 100)
    cost = assumed_cost("x", shape, peak_flops=1000.0, utilisation=0.5, base_s=0.1, spread=0.0)
    weights = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 24  # q, k and v, o, the gated feed-forward
    assert cost.seconds(3, 5) == pytest.approx(0.1 + 2 * (3 * 2 * weights + 5 * 4 * 8) / 500)
    assert not cost.measured


def test_groups_cost_their_prompt_once():
    (group,) = make_groups(Workload("x", 10, 5, 2, sigma=0.0), 1, 50)
    (measured,) = measure_groups([group])
    assert (measured.tokens, measured.max_path_len, measured.completions) == (20, 15, 2)
    assert measured.pairs == 10 * 11 // 2 + 2 * (5 * 10 + 5 * 6 // 2)


def test_profiles_by_hand():
    assert [Step(1, 9, 10, 20).level(t) for t in (0, 10, 19, 20)] == [1, 9, 9, 1]
    assert [round(Sine(1, 9, 8).level(t), 6) for t in (0, 2, 4, 8)] == [1, 5, 9, 1]
    assert [Burst(1, 9, 10, 2).level(t) for t in (1, 10, 11, 12, 20)] == [1, 9, 9, 1, 9]
    rates = np.histogram(list(poisson_arrivals(Step(10, 50, 100, 200), 300, random.Random(0))), bins=3, range=(0, 300))[
        0
    ]
    assert rates / 100 == pytest.approx([10, 50, 10], rel=0.15)


# The comparison


def figures(p99_s: float, cost: float, *, per_s: float = 100.0, failed: int = 0) -> Figures:
    return Figures(per_s, 0.1, 1.0, p99_s, 1000.0, cost, 0.5, None, 0.1, 0, failed)


def test_the_best_is_the_cheapest_of_those_near_the_least_p99_under_every_load():
    fast, cheap, slow = (Policy(target_batches=t) for t in (0.5, 1, 2))
    seen = {fast: (1.0, 2.0, 30.0), cheap: (1.4, 2.9, 20.0), slow: (1.0, 3.1, 10.0)}
    cells = [
        GridCell(policy, load, figures(p99_s, cost), ())
        for policy, (step_s, burst_s, cost) in seen.items()
        for load, p99_s in (("step", step_s), ("burst", burst_s))
    ]
    verdicts = judge(cells)
    assert [(v.p99_ratio, v.cost_ratio, v.sound) for v in verdicts] == [(1, 3, True), (1.45, 2, True), (1.55, 1, False)]
    assert choose(verdicts).policy == cheap
    lost = [replace(c, figures=replace(c.figures, failed=1)) if c.policy == cheap else c for c in cells]
    assert choose(judge(lost)).policy == fast
    idle = [replace(c, figures=replace(c.figures, completions_per_s=97)) if c.policy == cheap else c for c in cells]
    assert choose(judge(idle)).policy == fast


def test_the_lag_is_counted_from_the_rise_to_enough_replicas():
    looks = [Look(float(t), 1, 0, 4, running, 0, 0) for t, running in enumerate([4, 4, 1, 2, 3, 4])]
    assert scaling_lag_s(looks, 2.0, 3) == 2.0
    assert scaling_lag_s(looks, 2.0, 5) is None
    assert scaling_lag_s(looks, None, 3) is None


@pytest.fixture(scope="module")
def grid() -> GridReport:
    settings = GridSettings(num_actors=20, max_replicas=4, max_batch_tokens=500, start_s=3, warm_s=20, counted_s=80)
    around = {"upscale_delay_s": (0.0,)}
    return run_grid(settings, BY_TOKENS, "x", [GROUP], targets=(0.5, 4), downscale_delays_s=(5,), around=around)


def test_every_policy_meets_every_load(grid):
    assert [(c.policy.target_batches, c.load) for c in grid.cells[:6]] == [
        (target, load) for target in (0.5, 4) for load in ("step", "sine", "burst")
    ]
    assert len(grid.cells) == 9
    assert grid.cells[-1].policy == replace(grid.cells[0].policy, upscale_delay_s=0.0)
    # Three of four replicas at the rate of full batches, 500 tokens in 0.55 s.
    assert (grid.needed, grid.tokens_per_s) == (3, pytest.approx(500 / 0.55))
    assert grid.generate_s == pytest.approx(20 * 8 * 100 / (3 * 500 / 0.55))
    for cell in grid.cells:
        assert cell.figures.p50_s <= cell.figures.p95_s <= cell.figures.p99_s
        assert 80 <= cell.figures.replica_s <= 4 * 80
        assert 0 < cell.figures.utilisation <= 1


def test_the_report_is_json_a_table_and_a_picture(grid, tmp_path, capsys):
    written = json.loads(json.dumps(grid.to_json(), allow_nan=False))
    assert (written["kind"], len(written["cells"]), len(written["verdicts"])) == ("scaling", 9, 3)
    print_grid(grid)
    assert "20 rollout actors, 1 to 4 replicas" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    (path,) = plot_grid(grid, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("paced", [False, True])
def test_a_validation_runs_each_case_really_and_simulated(paced, monkeypatch, capsys):
    monkeypatch.setitem(SHAPES, "tiny", Shape(32, 2, 64, 2, 1, 16, 120))
    loads = (0.8,) if paced else ()
    settings = ValidationSettings(
        model="tiny", callers=(3,), loads=loads, rounds=2, run_s=1.5, num_groups=20, paced=paced
    )
    report = validate(settings)
    assert report.cases() == ("closed loop, 3 callers", "open loop at 80%")[: 1 + paced]
    for comparison in report.comparisons:
        assert min(comparison.real.num_calls, comparison.simulated.num_calls, comparison.foretold.num_calls) > 0
        assert comparison.drift > 0
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["holds"] is report.holds
    print_validation(report)
    assert "medians of 2 rounds" in capsys.readouterr().out


def test_a_validation_holds_where_throughput_and_median_are_near():
    real = Measured(100, 10.0, 0.1, 0.1, 0.3)

    def report(**changed: float) -> ValidationReport:
        simulated = replace(real, **changed)
        rounds = tuple(Comparison("one", i, real, one, real, 1.0) for i, one in enumerate((real, simulated, simulated)))
        return ValidationReport(ValidationSettings(), {}, (), rounds)

    assert report(calls_per_s=11.0, p50_s=0.086, p99_s=0.9).holds
    assert not report(calls_per_s=11.6).holds
    assert not report(p50_s=0.08).holds
    assert report(p50_s=0.08).ratio("one", "p50_s") == pytest.approx(0.8)
