"""Confidence intervals of means: pairs of one prompt are no independent witnesses. Used wherever a mean is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

# Resamples drawn at once, in counts held: bounds memory to some 32 MB whatever the number of prompts.
_COUNTS_AT_ONCE = 4_000_000
MANY_KINDS = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """low <= high at confidence `level`; clusters: how many prompts were resampled."""

    low: float
    high: float
    level: float
    clusters: int


def clustered_interval(
    values_N: npt.ArrayLike,
    clusters_N: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Percentile bootstrap interval of the mean of N values, resampling whole clusters (Field and Welsh 2007).

    Beyond MANY_KINDS clusters that all differ, where resampling would take minutes and the mean is normal, the interval
    is that of the linearised mean (the sandwich estimate with clusters, Liang and Zeger 1986).

    clusters_N: what each value belongs to (its prompt), integers or strings. bounds: what is known of the mean before
    any value is seen, (0, 1) for a share. One cluster cannot be resampled: its interval is `bounds`. Where every
    cluster has the same mean the interval has no width: resampling sees nothing that is not in the sample. The order
    of rows does not matter.

    Raises ValueError on no value, on a non-finite one, on another shape and on a level outside (0, 1).
    """
    values, clusters = np.asarray(values_N, dtype=np.float64), np.asarray(clusters_N)
    if values.ndim != 1 or values.shape != clusters.shape:
        raise ValueError(f"values {list(values.shape)} and clusters {list(clusters.shape)} must be [N] both")
    if not len(values):
        raise ValueError("there is no value")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, it is {level}")

    _, cluster_of_N = np.unique(clusters, return_inverse=True)
    sums_C = np.bincount(cluster_of_N, weights=values).astype(np.float64)
    counts_C = np.bincount(cluster_of_N).astype(np.float64)
    if len(sums_C) == 1:
        return Interval(bounds[0], bounds[1], level, 1)
    # Clusters with equal sum and count are alike; shares of few pairs make few kinds.
    kinds, clusters_of_kind = np.unique(np.stack([sums_C, counts_C], axis=1), axis=0, return_counts=True)
    if len(kinds) > MANY_KINDS:
        low, high = _normal_interval(sums_C, counts_C, level)
    else:
        sums, counts = _resampled_sums(kinds, clusters_of_kind, resamples, seed).T
        low, high = np.quantile(sums / counts, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, len(sums_C))


def formula_interval(
    columns_NM: npt.ArrayLike,
    clusters_N: npt.ArrayLike,
    formula: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """As `clustered_interval`, of what `formula` makes of the M columns' sums [R, M]: R figures, NaN where it has none.

    Draws without a figure are passed over; where no draw has one, the interval is `bounds`.
    """
    _, cluster_of_N = np.unique(np.asarray(clusters_N), return_inverse=True)
    columns_MN = np.asarray(columns_NM, dtype=np.float64).T
    sums_MC = [np.bincount(cluster_of_N, weights=column_N) for column_N in columns_MN]
    sums_CM = np.stack(sums_MC, axis=1).astype(np.float64)
    if len(sums_CM) == 1:
        return Interval(bounds[0], bounds[1], level, 1)
    kinds, clusters_of_kind = np.unique(sums_CM, axis=0, return_counts=True)
    figures = formula(_resampled_sums(kinds, clusters_of_kind, resamples, seed))
    if np.isnan(figures).all():
        return Interval(bounds[0], bounds[1], level, len(sums_CM))
    low, high = np.nanquantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, len(sums_CM))


def _resampled_sums(
    kinds: npt.NDArray[np.float64], clusters_of_kind: npt.NDArray[np.int64], resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Sums [resamples, M] over clusters drawn with replacement, of kinds [K, M] of sums that so many clusters have.

    What is drawn is how often each kind comes up: the same distribution as drawing clusters one by one.
    """
    rng = np.random.default_rng(seed)
    num_clusters = int(clusters_of_kind.sum())
    rows_at_once = max(1, _COUNTS_AT_ONCE // len(kinds))
    sums = []
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        drawn = rng.multinomial(num_clusters, clusters_of_kind / num_clusters, size=rows)
        sums.append(drawn @ kinds)
    return np.concatenate(sums)


def _normal_interval(
    sums_C: npt.NDArray[np.float64], counts_C: npt.NDArray[np.float64], level: float
) -> tuple[float, float]:
    total = counts_C.sum()
    mean = sums_C.sum() / total
    standard_error = math.sqrt(float(np.sum((sums_C - mean * counts_C) ** 2))) / total
    reach = float(norm.ppf((1 + level) / 2)) * standard_error
    return mean - reach, mean + reach
