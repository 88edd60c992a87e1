"""Rewards as advantages: zero mean and unit spread over a group or a batch. Used by clients in RL loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rmray.metrics.ranking import Floats

EPSILON = 1e-8


def whiten(rewards: npt.ArrayLike, *, axis: int | None = None) -> Floats:
    """(r - mean) / (population std + 1e-8), float64, over `axis` (-1: each group of a [groups, K] array) or over all.

    Rewards that are all equal give exact zeros: no sample is better than another. Raises ValueError on an empty or
    non-finite input.
    """
    r = np.asarray(rewards, dtype=np.float64)
    if not r.size:
        raise ValueError("there is no reward")
    if not np.isfinite(r).all():
        raise ValueError("a reward is not finite")
    white = (r - r.mean(axis=axis, keepdims=True)) / (r.std(axis=axis, keepdims=True) + EPSILON)
    # The mean of equal numbers can be off by a rounding, which 1e-8 would blow up.
    all_equal = r.max(axis=axis, keepdims=True) == r.min(axis=axis, keepdims=True)
    return np.where(all_equal, 0.0, white)
