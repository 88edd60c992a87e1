"""Do an ensemble's members disagree where it is wrong? Called by `evaluation`.

Legend: P pairs, M members.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MANY_PAIRS = 20_000  # beyond, resampling would take minutes and the AUROC is normal
_COUNTS_AT_ONCE = 4_000_000


def gap_disagreement(gaps_PM: npt.ArrayLike) -> Floats:
    """Of each pair the population standard deviation over members of their score gaps r_c - r_r."""
    gaps = np.asarray(gaps_PM, dtype=np.float64)
    if gaps.ndim != 2 or not gaps.shape[1]:
        raise ValueError(f"gaps must be [P, M] with a member at least, not {list(gaps.shape)}")
    spread_P: Floats = gaps.std(axis=1)
    return spread_P


@dataclass(frozen=True, slots=True)
class Auroc:
    """The chance that a pair with an error has the higher value than one without; ties count half. None, with its 95%
    interval over prompts, where there is no error or nothing else."""

    pairs: int
    errors: int
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None


def error_auroc(
    values_P: npt.ArrayLike, errors_P: npt.ArrayLike, prompts_P: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> Auroc:
    """How well a value of each pair tells those with an error from those without (Mann and Whitney 1947).

    The interval is a percentile bootstrap over whole prompts; resamples with errors alone, or none, are left out.
    Beyond MANY_PAIRS it is that of the linearised AUROC (Obuchowski 1997). One prompt cannot be resampled: 0 to 1.
    Raises ValueError on no pair, other shapes and values that are not finite.
    """
    values = np.asarray(values_P, dtype=np.float64)
    errors, prompts = np.asarray(errors_P, dtype=np.bool_), np.asarray(prompts_P)
    if values.ndim != 1 or values.shape != errors.shape or values.shape != prompts.shape:
        shapes = ", ".join(str(list(a.shape)) for a in (values, errors, prompts))
        raise ValueError(f"values, errors and prompts must be three [P] arrays, not {shapes}")
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("there is no value, or one that is not finite")
    num_errors = int(np.count_nonzero(errors))
    if num_errors in (0, len(values)):
        return Auroc(len(values), num_errors, None, None, None)
    _, prompt_of_P = np.unique(prompts, return_inverse=True)
    auroc = auroc_of(values, errors)
    if prompt_of_P.max() == 0:
        low, high = 0.0, 1.0
    elif len(values) > MANY_PAIRS:
        low, high = _normal_interval(values, errors, prompt_of_P, auroc)
    else:
        low, high = _bootstrap_interval(values, errors, prompt_of_P, resamples=resamples, seed=seed)
    return Auroc(len(values), num_errors, auroc, low, high)


def auroc_of(values_P: Floats, errors_P: Bools) -> float:
    """The AUROC itself; both kinds must be there."""
    num_errors = int(np.count_nonzero(errors_P))
    ranks_P = rankdata(values_P)  # ties share their mean rank, which counts them half
    above = float(ranks_P[errors_P].sum()) - num_errors * (num_errors + 1) / 2
    return above / (num_errors * (len(values_P) - num_errors))


def _bootstrap_interval(
    values_P: Floats, errors_P: Bools, prompt_of_P: npt.NDArray[np.int64], *, resamples: int, seed: int
) -> tuple[float, float]:
    """Quantiles of AUROCs in which each pair weighs as often as its prompt was drawn."""
    order = np.argsort(values_P, kind="stable")
    _, group_of_P = np.unique(values_P[order], return_inverse=True)  # pairs of one value, ascending
    starts = np.flatnonzero(np.diff(group_of_P, prepend=-1))
    errors, prompt_of = errors_P[order], prompt_of_P[order]
    num_prompts = int(prompt_of.max()) + 1
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, _COUNTS_AT_ONCE // len(errors))
    found = []
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        drawn = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=rows)
        weights = drawn[:, prompt_of].astype(np.float64)
        wrong = np.add.reduceat(weights * errors, starts, axis=1)
        right = np.add.reduceat(weights * ~errors, starts, axis=1)
        below = np.cumsum(right, axis=1) - right / 2  # of right pairs, those of the same value half
        total = wrong.sum(axis=1) * right.sum(axis=1)
        found.append((wrong * below).sum(axis=1)[total > 0] / total[total > 0])
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


def _normal_interval(
    values_P: Floats, errors_P: Bools, prompt_of_P: npt.NDArray[np.int64], auroc: float
) -> tuple[float, float]:
    """auroc +- 1.96 standard errors: each pair's share of the AUROC, summed over its prompt."""
    wrong, right = np.sort(values_P[errors_P]), np.sort(values_P[~errors_P])

    def below(sorted_N: Floats, values: Floats) -> Floats:
        """Share of sorted_N below each value, equal ones half."""
        counts = np.searchsorted(sorted_N, values, "left") + np.searchsorted(sorted_N, values, "right")
        shares: Floats = counts / (2 * len(sorted_N))
        return shares

    share_P = np.empty(len(values_P))
    share_P[errors_P] = (below(right, values_P[errors_P]) - auroc) / len(wrong)
    share_P[~errors_P] = (1 - below(wrong, values_P[~errors_P]) - auroc) / len(right)
    of_prompts = np.bincount(prompt_of_P, weights=share_P)
    reach = float(norm.ppf(0.975)) * math.sqrt(float(np.sum(of_prompts**2)))
    return max(0.0, auroc - reach), min(1.0, auroc + reach)
