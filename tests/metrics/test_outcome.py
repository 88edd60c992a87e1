"""Figures of right and wrong completions, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.metrics.calibration import expected_calibration_error
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.outcome import outcome_metrics


def test_figures_by_hand():
    """Right: 0.9, 0.6, 0.5. Wrong: 0.2, 0.7. Won: 0.9 twice, 0.6 and 0.5 once each; 0.5 is on no side."""
    got = outcome_metrics([0.9, 0.6, 0.5, 0.2, 0.7], [1, 1, True, 0, False], ["a", "a", "b", "b", "c"])
    assert (got.examples, got.prompts, got.positives) == (5, 3, 3)
    assert (got.accuracy, got.auc) == (3 / 5, pytest.approx(4 / 6))
    assert got.majority_accuracy == 3 / 5
    assert got.brier == pytest.approx((0.01 + 0.16 + 0.25 + 0.04 + 0.49) / 5)
    assert got.ece == pytest.approx((0.1 + abs(1.1 - 2) + 0.2 + 0.7) / 5), "0.5 and 0.6 have bins of their own"
    assert 0 <= got.accuracy_low <= got.accuracy <= got.accuracy_high <= 1
    assert 0 <= got.auc_low <= got.auc <= got.auc_high <= 1


def test_they_are_what_the_single_figures_are():
    rng = np.random.default_rng(0)
    label, prompt = rng.random(200) < 0.6, rng.integers(0, 50, 200)
    prob = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    got = outcome_metrics(prob, label, prompt, seed=3)
    interval = clustered_interval((prob > 0.5) == label, prompt, seed=3)
    assert (got.accuracy_low, got.accuracy_high) == (interval.low, interval.high)
    assert got.ece == expected_calibration_error(prob, label)


def test_one_kind_alone_has_no_auc():
    got = outcome_metrics([0.9, 0.2], [1, 1], [0, 1])
    assert (got.accuracy, got.auc, got.auc_low, got.auc_high, got.majority_accuracy) == (0.5, None, None, None, 1.0)


def test_what_is_no_probability_is_refused():
    for bad, message in (([], "no claim"), ([1.2, 0.1], "outside"), ([0.1], "must be"), ([np.nan, 0.1], "outside")):
        with pytest.raises(ValueError, match=message):
            outcome_metrics(bad, [1, 0] if bad else [], [0, 1] if bad else [])
