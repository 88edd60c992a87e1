"""From a raw score to a reward: the reference set, and what becomes of unfinished completions. Used by Scorers.

A score has no absolute scale. Against a named set of records that stays the same from version to version, a reward
is (score - mean) / std, and a quantile is the share of the set that scores below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rmray.errors import BundleError

NUM_QUANTILES = 101
GRID = np.linspace(0.0, 1.0, NUM_QUANTILES)


@dataclass(frozen=True)
class Reference:
    """mean, std: of the raw scores of the set, std the population's. quantiles: 101, from the lowest to the highest.

    hash: of the records themselves, so that models with different tokenizers share it. source: where they came from,
    for readers. num_scores: completions scored; num_failed: those that could not be, such as over-long ones.
    """

    hash: str
    source: str
    mean: float
    std: float
    quantiles: tuple[float, ...]
    num_scores: int
    num_failed: int = 0

    def __post_init__(self) -> None:
        if len(self.quantiles) != NUM_QUANTILES or any(np.diff(self.quantiles) < 0):
            raise ValueError(f"a reference needs {NUM_QUANTILES} ascending quantiles")
        if not np.isfinite([self.mean, self.std, *self.quantiles]).all() or self.std <= 0:
            raise ValueError("a reference needs finite statistics and a standard deviation above 0")

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Reference:
        return cls(**{**raw, "quantiles": tuple(raw["quantiles"])})

    def reward(self, raw: float) -> float:
        return (raw - self.mean) / self.std

    def reward_quantiles(self) -> npt.NDArray[np.float64]:
        """The set's own rewards at its 101 quantiles."""
        return (np.asarray(self.quantiles) - self.mean) / self.std

    def quantile(self, raw: float) -> float:
        """Share of the set below `raw`, in [0, 1], by linear interpolation; among equal scores, their middle."""
        values, shares = self._steps
        return float(np.interp(raw, values, shares))

    @cached_property
    def _steps(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        values, first, counts = np.unique(self.quantiles, return_index=True, return_counts=True)
        return values, (GRID[first] + GRID[first + counts - 1]) / 2


# Before a bundle has a reference its raw scores are all it has: reward = raw.
UNNORMALISED = Reference("", "none", 0.0, 1.0, tuple(GRID.tolist()), 0)


def reference_of_scores(scores: Sequence[float], *, hash: str, source: str, num_failed: int = 0) -> Reference:
    """Statistics of raw scores. Raises BundleError where they cannot normalise: fewer than 2, all equal, not finite."""
    values = np.asarray(scores, dtype=np.float64)
    if len(values) < 2:
        raise BundleError(
            f"the reference set gave {len(values)} score(s), and normalising needs 2 at least",
            where=source,
            why=f"{num_failed} completion(s) could not be scored" if num_failed else "it has too few records",
            next_step="give a reference file of some hundred representative records",
        )
    if not np.isfinite(values).all():
        raise BundleError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} reference scores are not finite",
            where=source,
            next_step="the model is broken: look at its training loss, or use an earlier checkpoint",
        )
    if values.std() <= 1e-12 * max(1.0, float(np.abs(values).max())):
        raise BundleError(
            f"every reference score is {values[0]:.6g}: the model tells no completion from another",
            where=source,
            why="a reward is a distance in standard deviations, and theirs is 0",
            next_step="the model has collapsed: check the preferences, raise the learning rate",
        )
    # Accumulated, because interpolation between equal scores may fall by a rounding error.
    quantiles = tuple(np.maximum.accumulate(np.quantile(values, GRID)).tolist())
    return Reference(hash, source, float(values.mean()), float(values.std()), quantiles, len(values), num_failed)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a completion that was cut off gets.

    policy: `score` scores it as it stands, without an end of sequence; `penalty` does the same and takes `penalty`
    off its reward; `error` refuses the item. penalty: in reference standard deviations, the unit of rewards.
    """

    policy: Literal["score", "penalty", "error"] = "score"
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.policy not in ("score", "penalty", "error"):
            raise BundleError(f"unknown policy {self.policy!r} for unfinished completions", why="score, penalty, error")
        if not math.isfinite(self.penalty) or self.penalty < 0:
            raise BundleError(f"the penalty for unfinished completions is {self.penalty}", why="a number from 0 on")
