"""The simulation beside real Serve replicas: what looks say, what is compared, and the scorer that sleeps."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from rmray.benchmark.scaling.autoscaler import ScalingSettings
from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.engine_runs import Measured
from rmray.benchmark.scaling.load import Group, measure_groups
from rmray.benchmark.scaling.paced import PacedScorer, request_of
from rmray.benchmark.scaling.plots import print_serve_validation
from rmray.benchmark.scaling.serve_runs import measure_loop
from rmray.benchmark.scaling.serve_validation import (
    ServeComparison,
    ServeValidationReport,
    ServeValidationSettings,
    compare_step,
    lags_s,
    simulate_closed,
    simulate_open,
    simulate_step,
)
from rmray.benchmark.scaling.starts import ReplicaLook, counts_of, replica_seconds, seconds_to, start_seconds
from rmray.benchmark.serve.load import Loop, Reply
from rmray.benchmark.workloads import Workload, make_groups
from rmray.models.scorer import score_requests
from rmray.schema import ScoreRequest, ScoreResult
from rmray.serving.app.health import PROBE

GROUP = Group(tokens=100, pairs=0, max_path_len=50, completions=4)
SECOND = ForwardCost("a forward takes a second", base_s=1.0, token_s=0.0)
REAL = Measured(100, 10.0, 0.1, 0.1, 0.3)
COUNTS = ((0.0, 1), (14.0, 2), (15.0, 4), (61.0, 2), (64.0, 1))
SETTINGS = ServeValidationSettings(pace=SECOND, max_batch_tokens=100, step_s=(10.0, 45.0, 25.0))
SCALING = ScalingSettings(max_replicas=4)


def look(now_s: float, running: str, starting: str) -> ReplicaLook:
    return ReplicaLook(now_s, frozenset(running), frozenset(starting))


def test_a_start_lasts_from_the_first_look_at_a_replica_to_the_first_at_which_it_runs():
    looks = [look(0, "a", ""), look(1, "a", "bc"), look(3, "ac", "bd"), look(6, "abc", ""), look(7, "abc", "e")]
    assert start_seconds(looks) == (2, 5)  # `a` ran from the beginning, `d` and `e` never did


def test_counts_are_kept_where_they_change():
    assert counts_of([(0.0, 1), (0.1, 1), (0.2, 3), (0.3, 3), (0.4, 1)]) == ((0.0, 1), (0.2, 3), (0.4, 1))
    assert replica_seconds(COUNTS, end_s=80.0) == 14 + 2 + 4 * 46 + 2 * 3 + 16


def test_lags_count_from_the_step_and_from_its_end():
    lags = lags_s(SETTINGS, SCALING, COUNTS)
    assert lags == {"to 2": 4, "to 3": 5, "to 4": 5, "back to 3": 6, "back to 2": 6, "back to 1": 9}
    assert seconds_to(COUNTS, 5, from_s=10.0, until_s=55.0) is None
    assert seconds_to(COUNTS, 1, from_s=10.0, until_s=55.0) == 0.0


def test_calls_count_that_are_answered_within_the_window():
    replies = tuple(Reply(asked_s, answered_s, 4) for asked_s, answered_s in ((0, 1), (1, 3), (2, 6), (5, 12)))
    assert measure_loop(Loop(replies, 2.0, 10.0)) == Measured(2, 0.25, 3.0, 3.0, pytest.approx(3.98))


def test_what_is_simulated_is_what_a_lone_caller_sees():
    closed = simulate_closed(SETTINGS, [GROUP], replicas=2, callers=1, call_s=0.25)
    assert (closed.calls_per_s, closed.p50_s) == (pytest.approx(1 / 1.25, rel=0.01), pytest.approx(1.25))
    opened = simulate_open(SETTINGS, [(2.0 * i, GROUP) for i in range(20)], replicas=2, call_s=0.25)
    assert opened.p99_s == pytest.approx(1.25)


def test_a_simulated_step_starts_replicas_one_by_one_as_the_real_ones_came(capsys):
    delays = {"upscale_delay_s": 2.0, "downscale_delay_s": 5.0, "metrics_interval_s": 1.0, "control_s": 0.1}
    scaling = replace(SCALING, target_tokens=100, **delays)
    arrivals = [(2.0, GROUP), *[(10.0, GROUP)] * 100, (79.0, GROUP)]
    runs = simulate_step(SETTINGS, scaling, arrivals, 0.0, (1.0, 4.0, 6.0))
    step = compare_step(SETTINGS, scaling, 0, (REAL, COUNTS, (1.0, 4.0, 6.0), 3.0), runs)
    lags = step.simulated_lags_s
    assert lags["to 3"] - lags["to 2"] == pytest.approx(3.0, abs=0.3)
    assert lags["to 4"] - lags["to 3"] == pytest.approx(2.0, abs=0.3)
    assert 3.0 <= lags["to 2"] <= 6.0
    comparisons = (ServeComparison("2 replicas at 50%", 0, REAL, REAL, 3.0),)
    report = ServeValidationReport(SETTINGS, {}, {2: 0.01}, comparisons, (step,))
    print_serve_validation(report)
    out = capsys.readouterr().out
    assert "load step" in out
    assert "to 4 5.0" in out
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["kind"] == "scaling-validation-serve"
    assert step.real_lags_s["to 2"] == 4.0


def test_it_holds_where_throughput_and_median_are_near_in_the_median_round():
    def holds(**changed: float) -> bool:
        off = ServeComparison("one", 1, REAL, replace(REAL, **changed), 1.0)
        rounds = (ServeComparison("one", 0, REAL, REAL, 1.0), off, replace(off, round=2))
        return ServeValidationReport(SETTINGS, {}, {}, rounds).holds

    assert holds(calls_per_s=11.0, p50_s=0.086, p99_s=0.9)
    assert not holds(calls_per_s=11.6)
    assert not holds(p50_s=0.08)


def test_a_paced_scorer_sleeps_as_long_as_the_groups_of_its_requests_cost():
    drawn = make_groups(Workload("paced", 20, 10, 4), 3, 50, 0)
    requests = [request_of(group, i) for i, group in enumerate(drawn)]
    pace = ForwardCost("paced", base_s=0.02, token_s=1e-4)
    scorer = PacedScorer(pace)
    for encoded, group in zip(scorer.encode(requests), drawn, strict=True):
        assert encoded.num_tokens == group.num_tokens
        assert np.array_equal(encoded.group.prefix, group.prefix)
    start_s = time.perf_counter()
    answers = score_requests(scorer, requests)
    took_s = time.perf_counter() - start_s
    assert took_s >= pace.seconds(sum(g.tokens for g in measure_groups(drawn)), 0)
    assert [len(a.results) for a in answers] == [4, 4, 4]
    assert all(isinstance(r, ScoreResult) for a in [*answers, *score_requests(scorer, [PROBE])] for r in a.results)
    assert isinstance(requests[0], ScoreRequest)
