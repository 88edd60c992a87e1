"""Aggregates of probabilities: the golden ones, their order, and probabilities that underflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmray.metrics.aggregates import aggregate


def test_golden_aggregates():
    assert aggregate([0.9, 0.8, 0.95, 0.6]) == pytest.approx((0.8125, 0.6, 0.4104), abs=1e-12)
    got = aggregate([0.25, 0.5])
    assert (got.mean, got.min, got.product) == (0.375, 0.25, pytest.approx(0.125))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_they_are_always_in_order(probabilities):
    got = aggregate(probabilities)
    assert 0 <= got.product <= got.min <= got.mean <= max(probabilities)


@pytest.mark.parametrize("p", [0.1, 0.7, 1 / 3, 1.0, 1 - 1e-16])
def test_equal_probabilities_are_their_own_mean(p):
    got = aggregate([p] * 7)
    assert (got.mean, got.min) == (p, p)
    assert got.product == pytest.approx(p**7, rel=1e-12)


def test_many_small_ones_underflow_to_nothing_and_warn_of_nothing(recwarn):
    assert aggregate(np.full(4000, 0.01)).product == 0
    assert aggregate([0.0, 0.5]) == (0.25, 0.0, 0.0)
    assert not recwarn


def test_what_is_no_probability_is_refused():
    for bad, message in (([], "not empty"), ([[0.5]], "not empty"), ([1.5], "outside"), ([float("nan")], "outside")):
        with pytest.raises(ValueError, match=message):
            aggregate(bad)
