"""Figures of completions said to be right or wrong. Used by `evaluation` and by held-out evaluation while training.

Legend: N completions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmray.metrics.calibration import brier_score, expected_calibration_error
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.ranking import Bools, Floats
from rmray.metrics.separation import separation


@dataclass(frozen=True, slots=True)
class OutcomeMetrics:
    """Figures of at least one completion.

    examples: completions; positives: right ones. accuracy: share whose probability lies on their label's side of 0.5,
    strictly. auc: the chance that a right completion scores above a wrong one; None where all are of one kind.
    *_low, *_high: 95% intervals over prompts. ece, brier: of the probability as a claim to be right. majority_accuracy:
    what the more frequent label alone would get.
    """

    examples: int
    prompts: int
    positives: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    majority_accuracy: float
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    ece: float
    brier: float


def outcome_metrics(
    prob_mean_N: npt.ArrayLike, label_N: npt.ArrayLike, prompt_N: npt.ArrayLike, *, seed: int = 0
) -> OutcomeMetrics:
    """Figures of N completions from the probability of each of being right, in [0, 1].

    prob_mean_N: the mean over its tokens, or another aggregate. label_N: whether it is right. prompt_N: which prompt it
    is of (integers or strings), for the intervals. Raises ValueError on no completion, other shapes or another number.
    """
    prob, label = np.asarray(prob_mean_N, dtype=np.float64), np.asarray(label_N, dtype=np.bool_)
    ece = expected_calibration_error(prob, label)  # checks shapes and range
    correct_N = on_its_side(prob, label)
    interval = clustered_interval(correct_N, prompt_N, seed=seed, bounds=(0.0, 1.0))
    apart = separation(prob, label, prompt_N, seed=seed)
    share = float(label.mean())
    return OutcomeMetrics(
        examples=len(prob),
        prompts=interval.clusters,
        positives=int(np.count_nonzero(label)),
        accuracy=float(correct_N.mean()),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        majority_accuracy=max(share, 1 - share),
        auc=apart.auc,
        auc_low=apart.auc_low,
        auc_high=apart.auc_high,
        ece=ece,
        brier=brier_score(prob, label),
    )


def on_its_side(prob_N: Floats, positive_N: Bools) -> Bools:
    """Whether each probability lies above 0.5 where it should, below where not; exactly 0.5 is never right."""
    return np.where(positive_N, prob_N > 0.5, prob_N < 0.5)
