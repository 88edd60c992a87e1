"""All figures of scored pairs in one call. Used by `evaluation` and by held-out evaluation while training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from rmray.metrics.calibration import brier_score, claims, expected_calibration_error, fit_temperature
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.ranking import check_pairs, rank_pairs


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """Figures of at least one scored pair.

    accuracy: strict; accuracy_low, accuracy_high: its 95% interval over prompts. ties: pairs of equal scores.
    margin, mean_chosen, mean_rejected: in score units. ece, brier: of sigmoid(gap). temperature: None where no finite
    one fits (see `fit_temperature`). prompts: how many the pairs come from.
    """

    pairs: int
    prompts: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ties: int
    margin: float
    mean_chosen: float
    mean_rejected: float
    ece: float
    brier: float
    temperature: float | None


def pair_metrics(
    chosen_P: npt.ArrayLike,
    rejected_P: npt.ArrayLike,
    *,
    prompts_P: npt.ArrayLike,
    first_P: npt.ArrayLike,
    seed: int = 0,
) -> PairMetrics:
    """Figures of P pairs of raw scores.

    prompts_P: which prompt each pair is of (integers or strings), for the interval. first_P: bool, the coin flips of
    `calibration.chosen_is_first`, keyed by a stable name of each pair. seed: of the interval's resamples. Raises
    ValueError on no pair, other shapes or non-finite scores.
    """
    chosen, rejected = check_pairs(chosen_P, rejected_P)
    ranking = rank_pairs(chosen, rejected)
    interval = clustered_interval(chosen > rejected, prompts_P, seed=seed, bounds=(0.0, 1.0))
    gap_P = chosen - rejected
    confidence_P, outcome_P = claims(gap_P, first_P)
    return PairMetrics(
        pairs=ranking.pairs,
        prompts=interval.clusters,
        accuracy=ranking.accuracy,
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        ties=ranking.ties,
        margin=ranking.margin,
        mean_chosen=ranking.mean_chosen,
        mean_rejected=ranking.mean_rejected,
        ece=expected_calibration_error(confidence_P, outcome_P),
        brier=brier_score(confidence_P, outcome_P),
        temperature=fit_temperature(gap_P),
    )
