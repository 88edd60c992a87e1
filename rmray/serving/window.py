"""The rewards of late: their distribution, and how far it is from the reference set's. Called by `app.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmray.metrics.drift import population_stability, reference_bins
from rmray.metrics.ranking import Floats
from rmray.models.reward import Reference

NUM_REWARDS = 4096
"""The window: so many rewards of late, however long ago they were."""
MIN_REWARDS = 500
"""Fewer say nothing about drift: by chance alone ten bins of n rewards have an index of some 9 / n."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Drift:
    """Against the reference set. stability_index: see `metrics.drift`. below, above: share of the rewards under the
    lowest of the reference, and over its highest."""

    stability_index: float
    below: float
    above: float


@dataclass(frozen=True, slots=True)
class RewardFigures:
    """Of the window. mean, std: in standard deviations of the reference, whose own rewards have mean 0 and std 1.
    quantiles: at QUANTILES. drift: None where there are few rewards, or no reference."""

    num: int
    mean: float
    std: float
    quantiles: tuple[float, ...]
    drift: Drift | None


class RewardWindow:
    """A ring of the last rewards. Exact and deterministic; figures of a full one take a fraction of a millisecond.

    reference: None for a scorer that normalises against none.
    """

    def __init__(self, reference: Reference | None, *, size: int = NUM_REWARDS, min_drift: int = MIN_REWARDS) -> None:
        self._ring = np.zeros(size)
        self._num_seen = 0
        self._min_drift = min_drift
        self._reference = None if reference is None else reference.reward_quantiles()
        self.bins = None if self._reference is None else reference_bins(self._reference)

    def add(self, rewards: Sequence[float]) -> None:
        size = len(self._ring)
        new = np.asarray(rewards[-size:], dtype=np.float64)
        places = (self._num_seen + len(rewards) - len(new) + np.arange(len(new))) % size
        self._ring[places] = new
        self._num_seen += len(rewards)

    def figures(self) -> RewardFigures | None:
        """None before the first reward."""
        rewards = self._ring[: self._num_seen]
        if not len(rewards):
            return None
        quantiles = tuple(np.quantile(rewards, QUANTILES).tolist())
        return RewardFigures(len(rewards), float(rewards.mean()), float(rewards.std()), quantiles, self._drift(rewards))

    def _drift(self, rewards: Floats) -> Drift | None:
        if self.bins is None or self._reference is None or len(rewards) < self._min_drift:
            return None
        index = population_stability(self.bins.counts(rewards), self.bins.shares)
        low, high = self._reference[0], self._reference[-1]
        return Drift(index, float((rewards < low).mean()), float((rewards > high).mean()))
