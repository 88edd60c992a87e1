"""The clustered bootstrap: closed forms, coverage, clustering, and scipy on unclustered data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, bootstrap

from rmray.metrics.intervals import Interval, clustered_interval, formula_interval


def test_a_share_of_independent_rows_has_the_binomial_quantiles():
    wins = np.arange(400) < 280
    interval = clustered_interval(wins, np.arange(400), resamples=20000, bounds=(0, 1))
    assert interval.low == pytest.approx(binom.ppf(0.025, 400, 0.7) / 400, abs=0.0026)
    assert interval.high == pytest.approx(binom.ppf(0.975, 400, 0.7) / 400, abs=0.0026)
    assert (interval.level, interval.clusters) == (0.95, 400)


def test_agrees_with_scipy_where_every_row_is_its_own_cluster():
    values = np.random.default_rng(0).normal(size=200)
    ours = clustered_interval(values, np.arange(200), resamples=10000)
    theirs = bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.01), pytest.approx(theirs.high, abs=0.01))


def test_copies_of_a_row_in_one_cluster_add_no_certainty():
    wins = np.random.default_rng(0).random(200) < 0.7
    once = clustered_interval(wins, np.arange(200), seed=3)
    copied = clustered_interval(np.repeat(wins, 10), np.repeat(np.arange(200), 10), seed=3)
    assert (copied.low, copied.high) == (once.low, once.high)
    by_row = clustered_interval(np.repeat(wins, 10), np.arange(2000), seed=3)
    assert by_row.high - by_row.low < 0.4 * (once.high - once.low), "resampling rows would claim too much"


def test_clusters_of_different_sizes_weigh_as_many_rows_as_they_have():
    # Two clusters: nine wins and one loss. Drawn twice with replacement, the mean is 1, 0.9 or 0.
    values, clusters = np.r_[np.ones(9), 0.0], np.r_[np.zeros(9), 1.0]
    interval = clustered_interval(values, clusters, level=0.8)
    assert (interval.low, interval.high) == (0.0, 1.0)
    middle = clustered_interval(values, clusters, level=0.02)
    assert (middle.low, middle.high) == (0.9, 0.9)


def test_covers_the_truth_about_as_often_as_it_says():
    """120 prompts of 1-5 pairs whose win rate is the prompt's own; mean win rate 0.6. 95% must hold within 92-98%."""
    rng = np.random.default_rng(0)
    trials, covered = 400, 0
    for _ in range(trials):
        rate_of_prompt = rng.beta(6, 4, size=120)
        prompt_of_pair = np.repeat(np.arange(120), rng.integers(1, 6, size=120))
        wins = rng.random(len(prompt_of_pair)) < rate_of_prompt[prompt_of_pair]
        interval = clustered_interval(wins, prompt_of_pair, resamples=500, bounds=(0, 1))
        covered += interval.low <= 0.6 <= interval.high
    assert 0.92 <= covered / trials <= 0.98


def test_one_cluster_is_as_wide_as_what_was_known_before():
    assert clustered_interval([1, 0, 1], ["a"] * 3, bounds=(0, 1)) == Interval(0, 1, 0.95, 1)
    assert clustered_interval([1.0], [0]).low == -math.inf


def test_the_same_seed_and_any_order_of_rows_give_the_same_interval():
    rng = np.random.default_rng(0)
    wins, prompts = rng.random(300) < 0.6, rng.integers(0, 80, size=300).astype(str)
    order = rng.permutation(300)
    assert clustered_interval(wins, prompts, seed=7) == clustered_interval(wins[order], prompts[order], seed=7)
    assert clustered_interval(wins, prompts, seed=7) != clustered_interval(wins, prompts, seed=8)


def test_memory_chunks_do_not_change_the_answer(monkeypatch):
    values, clusters = np.random.default_rng(0).normal(size=100), np.arange(100)
    whole = clustered_interval(values, clusters, resamples=50)
    monkeypatch.setattr("rmray.metrics.intervals._COUNTS_AT_ONCE", 700)
    assert clustered_interval(values, clusters, resamples=50) == whole


def test_what_has_no_interval_is_refused():
    with pytest.raises(ValueError, match="no value"):
        clustered_interval([], [])
    with pytest.raises(ValueError, match=r"must be \[N\]"):
        clustered_interval([1.0, 2.0], [1])
    with pytest.raises(ValueError, match=r"must be \[N\]"):
        clustered_interval([[1.0], [2.0]], [1, 2])
    with pytest.raises(ValueError, match="not finite"):
        clustered_interval([1.0, np.inf], [1, 2])
    with pytest.raises(ValueError, match="level"):
        clustered_interval([1.0, 2.0], [1, 2], level=95)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40), st.integers(0, 100))
def test_a_share_has_an_ordered_interval_within_its_bounds(rows, seed):
    wins, prompts = (list(column) for column in zip(*rows, strict=True))
    interval = clustered_interval(wins, prompts, seed=seed, resamples=200, bounds=(0, 1))
    assert 0 <= interval.low <= interval.high <= 1


def test_a_formula_of_two_sums_has_the_interval_of_their_mean():
    rng = np.random.default_rng(0)
    values, clusters = rng.random(80) < 0.6, rng.integers(0, 25, 80)
    mean = clustered_interval(values, clusters, seed=2)
    columns = np.stack([values, np.ones(80)], axis=1)
    assert formula_interval(columns, clusters, lambda sums: sums[:, 0] / sums[:, 1], seed=2) == mean
    one = formula_interval(columns[:3], ["p"] * 3, lambda sums: sums[:, 0], bounds=(0, 1))
    assert (one.low, one.high, one.clusters) == (0, 1, 1)
    never = formula_interval(columns, clusters, lambda sums: np.full(len(sums), np.nan), bounds=(0, 1))
    assert (never.low, never.high, never.clusters) == (0, 1, mean.clusters)
