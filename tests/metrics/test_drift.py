"""Drift against a reference: bins of equal shares, with ties too, and the index against its closed forms."""

import math

import numpy as np
import pytest

from rmray.metrics.drift import OFF_SHARE, PRIOR, population_stability, reference_bins

GRID = np.linspace(0.0, 1.0, 101)


def test_bins_hold_a_tenth_of_the_reference_each():
    values = np.random.default_rng(0).normal(2.0, 3.0, 100_000)
    bins = reference_bins(np.quantile(values, GRID))
    assert bins.shares == pytest.approx([0.1] * 10)
    assert bins.counts(values) / len(values) == pytest.approx([0.1] * 10, abs=1e-4)


def test_ties_make_fewer_bins_with_their_own_shares():
    grades = np.repeat([1.0, 2.0, 3.0], [500, 300, 200])
    bins = reference_bins(np.quantile(grades, GRID))
    # Hundredths of the way are where quantiles lie, and between two grades one is interpolated.
    assert bins.upper_B == pytest.approx([0.5, 0.8, 1.0], abs=0.011)
    assert bins.counts(grades).tolist() == [500, 300, 200]
    assert bins.counts([0.0, 1.0, 1.5, 9.0]).tolist() == [2, 1, 1]


def test_of_one_value_there_is_below_at_and_above():
    bins = reference_bins(np.ones(101))
    assert bins.counts([0.0, 1.0, 1.0 + 1e-9, 1.1, 2.0]).tolist() == [1, 2, 2]
    assert bins.shares == pytest.approx([OFF_SHARE, 1 - 2 * OFF_SHARE, OFF_SHARE])


@pytest.mark.parametrize("num_off", [0, 50, 1000])
def test_what_lies_off_a_reference_of_one_value_is_drift(num_off):
    """Against the closed form for three bins, with half a value for each bin spread over them as the reference is."""
    bins, n = reference_bins(np.zeros(101)), 1000
    prior = 3 * PRIOR
    at, off = 1 - 2 * OFF_SHARE, OFF_SHARE
    found_at, found_above = ((k + prior * share) / (n + prior) for k, share in ((n - num_off, at), (num_off, off)))
    found_below = prior * off / (n + prior)
    expected = (found_at - at) * math.log(found_at / at)
    expected += sum((found - off) * math.log(found / off) for found in (found_below, found_above))
    index = population_stability(bins.counts([0.0] * (n - num_off) + [3.0] * num_off), bins.shares)
    assert index == pytest.approx(expected)
    # None of it: no drift. One in twenty: the range of an alert. All: of any kind the farthest.
    low, high = {0: (0.0, 0.01), 50: (0.2, 0.3), 1000: (14.0, 15.0)}[num_off]
    assert low <= index < high


def test_a_reference_that_is_nearly_one_value_is_told_from_others():
    grades = np.repeat([1.0, 5.0, 6.0], [30, 940, 30])
    bins = reference_bins(np.quantile(grades, GRID))
    assert bins.shares == pytest.approx([0.03, 0.94, 0.03], abs=0.011)
    assert population_stability(bins.counts(grades), bins.shares) < 0.01
    assert population_stability(bins.counts(np.full(1000, 1.0)), bins.shares) > 2.0


def test_in_proportion_it_is_exactly_0():
    assert population_stability([100] * 10, [0.1] * 10) == pytest.approx(0.0, abs=1e-15)
    assert population_stability([500, 300, 200], [0.5, 0.3, 0.2]) == pytest.approx(0.0, abs=1e-15)


def test_two_bins_against_the_closed_form():
    # Large counts make the prior vanish: (0.8 - 0.5) ln(0.8 / 0.5) + (0.2 - 0.5) ln(0.2 / 0.5) = 0.3 ln 4.
    assert population_stability([8e12, 2e12], [0.5, 0.5]) == pytest.approx(0.3 * math.log(4), rel=1e-9)


def test_all_in_one_bin_is_finite():
    n, prior = 1000, PRIOR * 10
    full, empty = (n + prior * 0.1) / (n + prior), prior * 0.1 / (n + prior)
    expected = (full - 0.1) * math.log(full / 0.1) + 9 * (empty - 0.1) * math.log(empty / 0.1)
    assert population_stability([n, *[0] * 9], [0.1] * 10) == pytest.approx(expected)


def test_by_chance_it_is_bins_less_one_over_n():
    draws = np.random.default_rng(1).multinomial(1000, [0.1] * 10, size=2000)
    assert np.mean([population_stability(d, [0.1] * 10) for d in draws]) == pytest.approx(9 / 1000, rel=0.1)


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_a_shift_of_a_normal_is_about_its_square(shift):
    # Of two normals the index without bins is shift ** 2; ten bins lose a tenth of it and more.
    values = np.random.default_rng(2).normal(size=200_000)
    bins = reference_bins(np.quantile(values, GRID))
    index = population_stability(bins.counts(values + shift), bins.shares)
    assert 0.75 * shift**2 < index < shift**2


@pytest.mark.parametrize(("counts", "shares"), [([0, 0], [0.5, 0.5]), ([1, 1], [1.0, 0.0]), ([1], [0.5, 0.5])])
def test_what_has_no_index_is_refused(counts, shares):
    with pytest.raises(ValueError, match="share above 0"):
        population_stability(counts, shares)


def test_too_few_or_descending_quantiles_are_refused():
    for quantiles in (np.linspace(0, 1, 10), np.linspace(1, 0, 101)):
        with pytest.raises(ValueError, match="ascending"):
            reference_bins(quantiles)
