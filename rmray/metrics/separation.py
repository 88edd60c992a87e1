"""Do scores tell two classes apart? The area under the ROC curve and its interval. Used by `outcome` and `process`.

Legend: N scores, C clusters (prompts), L distinct scores, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm, rankdata

from rmray.metrics.ranking import Bools, Floats

RESAMPLES = 2000
MANY_SCORES = 10_000
_COUNTS_AT_ONCE = 4_000_000  # bounds memory to some 32 MB a table, whatever the number of scores


@dataclass(frozen=True, slots=True)
class Separation:
    """auc: the chance that a positive scores above a negative, a tie counting half; auc_low, auc_high: its 95% interval
    over prompts. All None where one class is missing: there is nothing to tell apart."""

    auc: float | None
    auc_low: float | None
    auc_high: float | None


def separation(
    scores_N: npt.ArrayLike, positive_N: npt.ArrayLike, clusters_N: npt.ArrayLike, *, seed: int = 0
) -> Separation:
    """AUC (Hanley and McNeil 1982) of N scores with a percentile bootstrap over whole clusters.

    Beyond MANY_SCORES scores, where resampling would take long and the area is normal, the interval is that of its
    clustered structural components (Obuchowski 1997). clusters_N: the prompt of each score, integers or strings. Draws
    that lack a class are passed over; a single prompt cannot be resampled, and its interval is 0 to 1. Raises
    ValueError on other shapes and on a score that is not finite.
    """
    scores, positive = np.asarray(scores_N, dtype=np.float64), np.asarray(positive_N, dtype=np.bool_)
    clusters = np.asarray(clusters_N)
    if scores.ndim != 1 or not scores.shape == positive.shape == clusters.shape:
        raise ValueError(
            f"scores {list(scores.shape)}, labels {list(positive.shape)} and prompts {list(clusters.shape)} "
            "must be [N] all"
        )
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    if positive.all() or not positive.any():
        return Separation(None, None, None)
    above_N = _beaten_shares(scores, positive)
    area = float(above_N[positive].mean())
    _, cluster_of_N = np.unique(clusters, return_inverse=True)
    if cluster_of_N.max() == 0:
        return Separation(area, 0.0, 1.0)
    if len(scores) > MANY_SCORES:
        low, high = _normal_interval(area, above_N, positive, cluster_of_N)
    else:
        low, high = _bootstrap_interval(scores, positive, cluster_of_N, seed)
    return Separation(area, min(low, area), max(high, area))


def _beaten_shares(scores_N: Floats, positive_N: Bools) -> Floats:
    """Of a positive the share of negatives below it, of a negative the share of positives above it; ties count half."""
    ranks_N = rankdata(scores_N)
    shares_N = np.empty(len(scores_N))
    shares_N[positive_N] = (ranks_N[positive_N] - rankdata(scores_N[positive_N])) / np.count_nonzero(~positive_N)
    below_N = (ranks_N[~positive_N] - rankdata(scores_N[~positive_N])) / np.count_nonzero(positive_N)
    shares_N[~positive_N] = 1 - below_N
    return shares_N


def _normal_interval(
    area: float, shares_N: Floats, positive_N: Bools, cluster_of_N: npt.NDArray[np.int64]
) -> tuple[float, float]:
    counts = np.where(positive_N, np.count_nonzero(positive_N), np.count_nonzero(~positive_N))
    influence_C = np.bincount(cluster_of_N, weights=(shares_N - area) / counts)
    reach = float(norm.ppf(0.975)) * math.sqrt(float(np.sum(influence_C**2)))
    return max(0.0, area - reach), min(1.0, area + reach)


def _bootstrap_interval(
    scores_N: Floats, positive_N: Bools, cluster_of_N: npt.NDArray[np.int64], seed: int
) -> tuple[float, float]:
    levels, level_of_N = np.unique(scores_N, return_inverse=True)
    num_clusters = int(cluster_of_N.max()) + 1
    shape = (len(levels), num_clusters)
    positive_LC, negative_LC = (
        sparse.coo_array((np.ones(np.count_nonzero(of)), (level_of_N[of], cluster_of_N[of])), shape=shape).tocsr()
        for of in (positive_N, ~positive_N)
    )
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, _COUNTS_AT_ONCE // max(shape))
    areas = []
    for start in range(0, RESAMPLES, rows_at_once):
        rows = min(rows_at_once, RESAMPLES - start)
        drawn_CR = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=rows).T
        positive_LR, negative_LR = positive_LC @ drawn_CR, negative_LC @ drawn_CR
        below_LR = negative_LR.cumsum(axis=0) - negative_LR / 2
        pairs_R = positive_LR.sum(axis=0) * negative_LR.sum(axis=0)
        won_R = (positive_LR * below_LR).sum(axis=0)
        areas.append(won_R[pairs_R > 0] / pairs_R[pairs_R > 0])
    drawn_areas = np.concatenate(areas)
    if not len(drawn_areas):
        return 0.0, 1.0
    low, high = np.quantile(drawn_areas, [0.025, 0.975])
    return float(low), float(high)
