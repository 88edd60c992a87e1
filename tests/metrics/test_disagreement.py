"""Disagreement as a detector of errors: closed forms, scikit-learn's AUROC, intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rmray.metrics import disagreement
from rmray.metrics.disagreement import error_auroc, gap_disagreement

ERRORS = np.array([True, False] * 10)
PROMPTS = np.arange(20)


def test_disagreement_that_separates_errors_and_one_that_says_nothing() -> None:
    perfect = error_auroc(ERRORS * 1.0, ERRORS, PROMPTS)
    assert (perfect.auroc, perfect.auroc_low, perfect.auroc_high) == (1.0, 1.0, 1.0)
    assert (perfect.pairs, perfect.errors) == (20, 10)
    constant = error_auroc(np.full(20, 0.3), ERRORS, PROMPTS)
    assert (constant.auroc, constant.auroc_low, constant.auroc_high) == (0.5, 0.5, 0.5)
    assert error_auroc(-ERRORS.astype(float), ERRORS, PROMPTS).auroc == 0.0


@pytest.mark.parametrize("errors", [np.zeros(20, bool), np.ones(20, bool)])
def test_undefined_without_errors_or_with_errors_alone(errors: np.ndarray) -> None:
    found = error_auroc(np.arange(20.0), errors, PROMPTS)
    assert (found.auroc, found.auroc_low, found.auroc_high) == (None, None, None)
    assert found.errors == errors.sum()


def test_by_hand_with_a_tie() -> None:
    # Errors at 3 and 2, right ones at 2 and 1: wins 3>2, 3>1, 2>1 and half of 2=2, of 4.
    assert error_auroc([3.0, 2.0, 2.0, 1.0], [True, True, False, False], [0, 1, 2, 3]).auroc == 3.5 / 4


def test_the_disagreement_of_a_pair() -> None:
    assert gap_disagreement([[1.0, 3.0], [2.0, 2.0], [0.5, -0.5]]).tolist() == [1.0, 0.0, 0.5]
    assert gap_disagreement([[1.0], [2.0]]).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="a member at least"):
        gap_disagreement([1.0, 2.0])


def sample(rng: np.random.Generator, num_prompts: int, pairs_each: int = 3) -> tuple[np.ndarray, ...]:
    """Errors of one prompt go together, and so do values; the true AUROC of a shift d in unit normals is known."""
    prompts = np.repeat(np.arange(num_prompts), pairs_each)
    errors = np.repeat(rng.random(num_prompts) < 0.4, pairs_each)
    values = rng.normal(size=num_prompts)[prompts] + 0.5 * errors
    return values, errors, prompts


def test_scikit_learns_auroc() -> None:
    values, errors, prompts = sample(np.random.default_rng(0), 200)
    values = values.round(1)  # with ties
    assert error_auroc(values, errors, prompts).auroc == pytest.approx(roc_auc_score(errors, values), abs=1e-12)


def test_both_intervals_agree_and_pairs_of_one_prompt_are_no_witnesses(monkeypatch: pytest.MonkeyPatch) -> None:
    values, errors, prompts = sample(np.random.default_rng(1), 400)
    resampled = error_auroc(values, errors, prompts)
    apart = error_auroc(values, errors, np.arange(len(values)))
    monkeypatch.setattr(disagreement, "MANY_PAIRS", 10)
    normal = error_auroc(values, errors, prompts)
    assert normal.auroc == resampled.auroc
    assert (normal.auroc_low, normal.auroc_high) == pytest.approx((resampled.auroc_low, resampled.auroc_high), abs=0.01)
    width, narrow = (found.auroc_high - found.auroc_low for found in (resampled, apart))
    assert width / narrow == pytest.approx(math.sqrt(3), rel=0.15), "three copies of a prompt tell what one does"


def test_the_interval_covers_the_truth() -> None:
    truth = 0.6381631951  # Phi(0.5 / sqrt 2)
    rng = np.random.default_rng(2)
    found = [error_auroc(*sample(rng, 80), resamples=200) for _ in range(200)]
    covered = np.mean([f.auroc_low <= truth <= f.auroc_high for f in found])
    assert 0.89 <= covered <= 0.99


def test_one_prompt_and_wrong_shapes() -> None:
    found = error_auroc([1.0, 2.0], [True, False], ["p", "p"])
    assert (found.auroc, found.auroc_low, found.auroc_high) == (0.0, 0.0, 1.0)
    for wrong in (([1.0], [True, False], [0, 1]), ([], [], []), ([math.nan, 1.0], [True, False], [0, 1])):
        with pytest.raises(ValueError, match="value"):
            error_auroc(*wrong)
