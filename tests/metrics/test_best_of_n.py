"""Best-of-N against enumeration of every subset, closed forms, and the ways it is easily biased."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmray.metrics.best_of_n import best_of_n, kl_of_best_of_n, pick_chances


def by_enumeration(proxy: np.ndarray, true: np.ndarray, n: int) -> float:
    """Mean over all subsets of size n of the mean true quality of those that tie for the top proxy score."""
    picks = []
    for subset in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        picks.append(np.mean([true[i] for i in subset if proxy[i] == top]))
    return float(np.mean(picks))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_equals_the_mean_over_all_subsets(n):
    rng = np.random.default_rng(0)
    proxy, true = rng.integers(0, 4, size=(6, 7)).astype(float), rng.normal(size=(6, 7))  # many ties
    [result] = best_of_n(proxy, true, [n])
    assert result.true == pytest.approx(np.mean([by_enumeration(p, t, n) for p, t in zip(proxy, true, strict=True)]))
    assert result.proxy == pytest.approx(np.mean([by_enumeration(p, p, n) for p in proxy]))


def test_one_of_one_is_the_mean_and_all_of_all_is_the_best():
    proxy, true = np.array([[1.0, 3.0, 2.0]]), np.array([[10.0, 20.0, 60.0]])
    one, every = best_of_n(proxy, true, [1, 3])
    assert (one.true, one.proxy, one.kl) == (pytest.approx(30.0), pytest.approx(2.0), 0.0)
    assert (every.true, every.proxy) == (20.0, 3.0)


def test_ties_are_broken_by_chance_never_by_position():
    proxy, true = np.array([[1.0, 1.0, 0.0, 1.0]]), np.array([[9.0, 0.0, 5.0, 0.0]])
    [result] = best_of_n(proxy, true, [4])
    assert result.true == pytest.approx(3.0)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        assert best_of_n(proxy[:, order], true[:, order], [2]) == best_of_n(proxy, true, [2])


def test_a_constant_proxy_picks_at_random_whatever_n():
    true = np.random.default_rng(0).normal(size=(3, 8))
    for result in best_of_n(np.full((3, 8), 0.5), true, [1, 4, 8]):
        assert result.true == pytest.approx(true.mean())


def test_expected_maximum_of_uniform_samples_has_its_closed_form():
    rng = np.random.default_rng(0)
    samples = rng.random((4000, 16))
    for result in best_of_n(samples, samples, [1, 4, 16]):
        assert result.proxy == pytest.approx(result.n / (result.n + 1), abs=0.006)


def test_thousands_of_samples_stay_exact():
    proxy = np.arange(5000.0)[None]
    [result] = best_of_n(proxy, proxy, [2500])
    assert result.proxy == pytest.approx(2500 * 5001 / 2501 - 1, rel=1e-12)  # expected maximum without replacement


def test_divergence_in_nats():
    assert kl_of_best_of_n(1) == 0.0
    assert kl_of_best_of_n(4) == pytest.approx(math.log(4) - 0.75)
    assert kl_of_best_of_n(64) == pytest.approx(3.1745080833596715)
    with pytest.raises(ValueError, match="at least 1"):
        kl_of_best_of_n(0)


def test_what_cannot_be_picked_from_is_refused():
    scores = np.zeros((2, 3))
    for n in (0, 4):
        with pytest.raises(ValueError, match=r"n must lie in 1\.\.3"):
            best_of_n(scores, scores, [n])
    with pytest.raises(ValueError, match=r"\[G, N\]"):
        best_of_n(scores, np.zeros((2, 1)), [1])
    with pytest.raises(ValueError, match=r"\[G, N\]"):
        best_of_n(np.zeros(3), np.zeros(3), [1])
    with pytest.raises(ValueError, match="not finite"):
        best_of_n([[1.0, np.nan]], [[1.0, 1.0]], [1])


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_the_proxys_own_value_never_falls_with_n(values):
    proxy = np.array([values], dtype=float)
    results = best_of_n(proxy, proxy, range(1, len(values) + 1))
    assert all(later.proxy >= earlier.proxy - 1e-12 for earlier, later in pairwise(results))
    for n in range(1, len(values) + 1):
        chances = pick_chances(proxy, n)
        assert chances.sum() == pytest.approx(1.0)
        assert (chances >= 0).all()
