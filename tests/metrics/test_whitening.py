"""Whitened rewards: golden values, exact zeros, groups apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import zscore

from rmray.metrics.whitening import whiten


def test_golden_values():
    assert whiten([1, 2, 3, 4]) == pytest.approx([-1.3416, -0.4472, 0.4472, 1.3416], abs=5e-5)
    assert whiten([1, 2, 3, 4]) == pytest.approx(zscore([1, 2, 3, 4]), abs=1e-7)
    # A spread as small as epsilon is halved by it.
    assert whiten([1e-8, -1e-8]) == pytest.approx([0.5, -0.5])


def test_all_equal_rewards_give_exact_zeros():
    for value in (0.1, 1 / 3, 1e6 + 0.1, -7.0):
        assert whiten([value] * 7).tolist() == [0.0] * 7
    assert whiten([5.0]).tolist() == [0.0]


def test_groups_are_whitened_each_by_itself():
    groups = np.array([[1.0, 2.0, 3.0], [7.0, 7.0, 7.0], [0.0, 10.0, 20.0]])
    by_group = whiten(groups, axis=-1)
    for row, group in zip(by_group, groups, strict=True):
        assert row == pytest.approx(whiten(group))
    over_all = whiten(groups)
    assert (over_all.mean(), over_all.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_what_has_no_spread_to_measure_is_refused():
    with pytest.raises(ValueError, match="no reward"):
        whiten([])
    with pytest.raises(ValueError, match="not finite"):
        whiten([1.0, np.nan])


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_order_is_kept_and_the_mean_is_zero(rewards):
    r = np.array(rewards)
    white = whiten(r)
    assert np.isfinite(white).all()
    assert abs(white.mean()) < 1e-6
    assert (np.diff(white[np.argsort(r)]) >= 0).all()
    assert white.std() <= 1 + 1e-9
