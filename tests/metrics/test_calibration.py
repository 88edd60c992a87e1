"""ECE, reliability bins, Brier and temperature: closed forms, golden values, scipy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from rmray.metrics.calibration import (
    brier_score,
    chosen_is_first,
    claims,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)


def drawn_pairs(num_pairs: int, *, truth: float = 1.0, seed: int = 0) -> np.ndarray:
    """Gaps r_c - r_r of pairs whose winner is drawn with probability sigmoid(truth x gap); gaps have std 2."""
    rng = np.random.default_rng(seed)
    gap = rng.normal(size=num_pairs) * 2
    return np.where(rng.random(num_pairs) < expit(truth * gap), gap, -gap)


def test_golden_error_of_calibrated_and_of_random_outcomes():
    rng = np.random.default_rng(0)
    gap = rng.normal(size=300_000) * 2
    assert expected_calibration_error(expit(gap), rng.random(300_000) < expit(gap)) < 0.02
    assert expected_calibration_error(expit(gap), rng.random(300_000) < 0.5) == pytest.approx(0.28, abs=0.005)


def test_a_preference_file_is_asked_about_a_side_chosen_by_a_coin():
    gap_P = drawn_pairs(300_000)
    keys = [f"file:{i}" for i in range(len(gap_P))]
    assert expected_calibration_error(*claims(gap_P, chosen_is_first(keys))) < 0.02
    always_one = expected_calibration_error(*claims(gap_P, np.ones(len(gap_P), dtype=bool)))
    assert always_one == pytest.approx(np.mean(1 - expit(gap_P)), abs=1e-12)
    assert always_one > 0.2, "the winner is always written first: without the coin a calibrated model looks wrong"


def test_the_coin_is_fair_seeded_and_the_same_in_any_order():
    keys = [f"0123456789abcdef:{i}" for i in range(20_000)]
    flips = chosen_is_first(keys, seed=1)
    assert abs(flips.mean() - 0.5) < 0.01
    assert (chosen_is_first(keys[::-1], seed=1) == flips[::-1]).all()
    assert abs((flips == chosen_is_first(keys, seed=2)).mean() - 0.5) < 0.02
    # Pinned: another process, platform or version must flip the same rows.
    assert chosen_is_first(["a", "b", "c", "d", "e", "f"]).tolist() == [False, True, True, False, False, False]


def test_bins_are_open_below_closed_above_and_the_first_is_closed():
    tenths = np.arange(11) / 10
    counts = [b.count for b in reliability_bins(tenths, np.zeros(11))]
    assert counts == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    for i in range(1, 11):
        just_above = np.nextafter(i / 10, 2)
        if just_above <= 1:
            above = reliability_bins([just_above], [1.0])
            assert above[i].count == 1, f"just above {i / 10} belongs to the next bin"


def test_error_by_hand():
    # Bin (0.6, 0.7]: mean 0.65, half won; bin (0.9, 1]: mean 0.95, all won. 2/3 x 0.15 + 1/3 x 0.05.
    assert expected_calibration_error([0.62, 0.68, 0.95], [1, 0, 1]) == pytest.approx(2 / 3 * 0.15 + 1 / 3 * 0.05)
    bins = reliability_bins([0.62, 0.68, 0.95], [1, 0, 1])
    assert (bins[6].low, bins[6].high, bins[6].count) == (0.6, 0.7, 2)
    assert (bins[6].mean_confidence, bins[6].win_rate) == (pytest.approx(0.65), 0.5)
    assert (bins[0].count, bins[0].mean_confidence, bins[0].win_rate) == (0, None, None)


def test_bins_and_brier_agree_with_sklearn():
    rng = np.random.default_rng(1)
    confidence = rng.random(5000)
    outcome = (rng.random(5000) < confidence**2).astype(float)
    bins = [b for b in reliability_bins(confidence, outcome) if b.count]
    win_rate, mean_confidence = calibration_curve(outcome, confidence, n_bins=10, strategy="uniform")
    assert [b.win_rate for b in bins] == pytest.approx(win_rate)
    assert [b.mean_confidence for b in bins] == pytest.approx(mean_confidence)
    assert brier_score(confidence, outcome) == pytest.approx(brier_score_loss(outcome, confidence), abs=1e-12)


def test_brier_is_the_same_whichever_side_is_first():
    gap_P = drawn_pairs(100)
    one_way = brier_score(*claims(gap_P, np.ones(100, dtype=bool)))
    assert brier_score(*claims(gap_P, np.zeros(100, dtype=bool))) == pytest.approx(one_way, abs=1e-15)
    assert brier_score(*claims(np.zeros(4), np.ones(4, dtype=bool))) == 0.25


def test_temperature_finds_the_scale_that_outcomes_were_drawn_with():
    assert fit_temperature(drawn_pairs(200_000, truth=1.0)) == pytest.approx(1.0, abs=0.02)
    assert fit_temperature(drawn_pairs(200_000, truth=0.25)) == pytest.approx(4.0, abs=0.2)


def test_temperature_is_the_minimum_that_scipy_finds():
    gap_P = drawn_pairs(500, truth=0.5, seed=2)
    best = minimize_scalar(
        lambda log_t: np.logaddexp(0, -gap_P / math.exp(log_t)).mean(), bounds=(-5, 5), method="bounded"
    )
    assert fit_temperature(gap_P) == pytest.approx(math.exp(best.x), rel=1e-4)


def test_temperature_has_its_closed_form_for_equal_gaps():
    # 3 of 4 pairs won by a gap of g: the best claim is 3/4 = sigmoid(g / T), so that T = g / ln 3.
    for g in (1e-6, 1.0, 1000.0):
        assert fit_temperature([g, g, g, -g]) == pytest.approx(g / math.log(3), rel=1e-9)


def test_no_temperature_where_none_is_best():
    assert fit_temperature([1.0, 2.0, 0.5]) is None, "no pair is lost"
    assert fit_temperature([0.0, 0.0]) is None, "all tie"
    assert fit_temperature([1.0, -1.0]) is None, "no better than a coin"
    assert fit_temperature([1.0, -3.0]) is None, "worse than a coin"
    assert fit_temperature([1.0, 1e-14, 1e-14, 1e-14, -1e-14]) is None, "lost by rounding alone"
    with pytest.raises(ValueError, match="non-empty"):
        fit_temperature([])


def test_what_is_no_claim_is_refused():
    with pytest.raises(ValueError, match="no claim"):
        expected_calibration_error([], [])
    with pytest.raises(ValueError, match=r"must be \[N\]"):
        expected_calibration_error([0.5, 0.5], [1.0])
    with pytest.raises(ValueError, match="outside"):
        expected_calibration_error([1.5], [1.0])
    with pytest.raises(ValueError, match="outside"):
        expected_calibration_error([np.nan], [1.0])
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        brier_score([0.5], [0.5])
    with pytest.raises(ValueError, match=r"must be \[P\]"):
        claims([0.5, 1.0], [True])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_errors_stay_in_their_range_and_every_claim_has_a_bin(rows):
    confidence, outcome = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    bins = reliability_bins(confidence, outcome)
    assert sum(b.count for b in bins) == len(rows)
    for b in bins:
        assert b.mean_confidence is None or b.low - 1e-12 <= b.mean_confidence <= b.high + 1e-12
    ece = expected_calibration_error(confidence, outcome)
    assert 0 <= ece <= 1
    assert ece >= abs(confidence.mean() - outcome.mean()) - 1e-12, "binning cannot hide the overall bias"
    assert 0 <= brier_score(confidence, outcome) <= 1


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40), st.sampled_from([0.125, 2.0, 64.0]))
def test_temperature_scales_with_the_scores(gaps, factor):
    gap_P = np.array(gaps)
    before, after = fit_temperature(gap_P), fit_temperature(gap_P * factor)
    assert (before is None) == (after is None)
    if before is not None:
        assert before > 0
        assert after == pytest.approx(before * factor, rel=1e-6)
