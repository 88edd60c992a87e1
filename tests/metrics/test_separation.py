"""AUC and its interval: by counting pairs, against scikit-learn, and the two ways to the interval beside each other."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rmray.metrics import separation as module
from rmray.metrics.separation import Separation, separation


def test_by_hand():
    """Positives 3 and 1, negatives 2 and 1: won 3 > 2, 3 > 1, half of 1 = 1, none of 1 < 2."""
    assert separation([3.0, 1.0, 2.0, 1.0], [1, 1, 0, 0], range(4)).auc == 2.5 / 4
    assert separation([2.0, 1.0], [True, False], ["a", "b"]).auc == 1.0
    assert separation([5.0] * 6, [1, 0] * 3, range(6)) == Separation(0.5, 0.5, 0.5)


def test_equals_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=400).round(1), rng.random(400) < 0.3
    assert separation(scores, positive, range(400)).auc == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_one_class_has_no_area_and_one_prompt_no_narrow_interval():
    for label in (True, False):
        assert separation([0.1, 0.2], [label] * 2, [0, 1]) == Separation(None, None, None)
    assert separation([], [], []) == Separation(None, None, None)
    assert separation([0.1, 0.2, 0.3], [0, 1, 1], ["p"] * 3) == Separation(1.0, 0.0, 1.0)


def test_interval_is_over_prompts_and_free_of_the_order_of_rows():
    rng = np.random.default_rng(1)
    positive, prompt = rng.random(300) < 0.5, np.arange(300)
    scores = rng.normal(size=300) + positive
    apart = separation(scores, positive, prompt, seed=3)
    copied = separation(np.repeat(scores, 5), np.repeat(positive, 5), np.repeat(prompt, 5), seed=3)
    assert (copied.auc_low, copied.auc_high) == pytest.approx((apart.auc_low, apart.auc_high), abs=1e-12)
    order = rng.permutation(300)
    assert separation(scores[order], positive[order], prompt[order], seed=3) == apart
    assert apart.auc_low < apart.auc < apart.auc_high


def test_the_normal_interval_of_many_scores_is_that_of_the_bootstrap(monkeypatch):
    rng = np.random.default_rng(2)
    prompt = np.repeat(np.arange(400), 3)
    positive = rng.random(1200) < 0.4
    scores = rng.normal(size=400)[prompt] + rng.normal(size=1200) + 0.7 * positive
    drawn = separation(scores, positive, prompt)
    monkeypatch.setattr(module, "MANY_SCORES", 10)
    normal = separation(scores, positive, prompt)
    assert (normal.auc_low, normal.auc_high) == pytest.approx((drawn.auc_low, drawn.auc_high), abs=0.004)
    assert (normal.auc_low, normal.auc_high) != (drawn.auc_low, drawn.auc_high), "no resample was drawn"
    by_row = separation(scores, positive, np.arange(1200))
    assert (by_row.auc_low, by_row.auc_high) != pytest.approx((drawn.auc_low, drawn.auc_high), abs=1e-6)


def test_covers_the_truth_about_as_often_as_it_says():
    """Normal scores one apart: the true area is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(0)
    covered, trials = 0, 150
    for _ in range(trials):
        positive = rng.random(80) < 0.5
        apart = separation(rng.normal(size=80) + positive, positive, np.arange(80))
        covered += apart.auc_low <= 0.76025 <= apart.auc_high
    assert 0.88 <= covered / trials <= 1


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \[N\] all"):
        separation([[0.1], [0.2]], [0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"must be \[N\] all"):
        separation([0.1, 0.2], [0, 1], [0])
    with pytest.raises(ValueError, match="not finite"):
        separation([0.1, np.nan], [0, 1], [0, 1])
