"""The one call that evaluation and training share gives what its parts give."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.metrics.calibration import chosen_is_first, claims, expected_calibration_error
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.summary import pair_metrics


def test_gathers_every_figure():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(0.5, 1, size=200), rng.normal(size=200)
    prompts, flips = np.arange(200) // 2, chosen_is_first(f"row:{i}" for i in range(200))
    metrics = pair_metrics(chosen, rejected, prompts_P=prompts, first_P=flips, seed=4)
    interval = clustered_interval(chosen > rejected, prompts, seed=4)
    assert (metrics.pairs, metrics.prompts) == (200, 100)
    assert metrics.accuracy == np.mean(chosen > rejected)
    assert (metrics.accuracy_low, metrics.accuracy_high) == (interval.low, interval.high)
    assert metrics.accuracy_low < metrics.accuracy < metrics.accuracy_high
    assert metrics.margin == pytest.approx(metrics.mean_chosen - metrics.mean_rejected)
    assert metrics.mean_chosen == pytest.approx(chosen.mean())
    assert metrics.ece == expected_calibration_error(*claims(chosen - rejected, flips))
    assert 0 < metrics.brier < 0.25
    assert metrics.temperature > 0


def test_the_order_of_pairs_does_not_matter():
    rng = np.random.default_rng(0)
    chosen, rejected, prompts = rng.normal(0.5, 1, size=60), rng.normal(size=60), rng.integers(0, 20, size=60)
    flips = chosen_is_first(f"row:{i}" for i in range(60))
    order = rng.permutation(60)
    one = pair_metrics(chosen, rejected, prompts_P=prompts, first_P=flips)
    other = pair_metrics(chosen[order], rejected[order], prompts_P=prompts[order], first_P=flips[order])
    for name in one.__slots__:
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12), name


def test_one_pair_and_all_ties_have_figures_without_nan():
    one = pair_metrics([1.0], [0.0], prompts_P=["p"], first_P=[True])
    assert (one.accuracy, one.accuracy_low, one.accuracy_high, one.temperature) == (1.0, 0.0, 1.0, None)
    ties = pair_metrics([1.0] * 4, [1.0] * 4, prompts_P=[1, 2, 3, 4], first_P=[True, False] * 2)
    assert (ties.accuracy, ties.accuracy_high, ties.ties, ties.margin) == (0.0, 0.0, 4, 0.0)
    assert (ties.brier, ties.temperature) == (0.25, None)
