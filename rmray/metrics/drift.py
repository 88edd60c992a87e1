"""Are rewards still distributed as the reference set's? Called by `serving.window`.

Legend: B bins between quantiles of the reference, Q its quantiles at even steps from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmray.metrics.ranking import Floats

NUM_BINS = 10
OFF_SHARE = 0.0005
"""Of a reference that is one value, this share is taken to lie on each side of it: whatever is served that lies off the
value counts then, and the index stays finite."""
PRIOR = 0.5
"""So much of a value is added to each bin, on average, so that an empty one does not make the index infinite."""


@dataclass(frozen=True, slots=True)
class ReferenceBins:
    """edges: B - 1 ascending values; a value on one counts below it. upper_B: share of the reference up to each bin's
    end. Quantiles that are equal make fewer bins; where they would make one alone, it is below, at and above their
    value."""

    edges: Floats
    upper_B: Floats

    @property
    def shares(self) -> Floats:
        """Share of the reference in each bin."""
        return np.diff(self.upper_B, prepend=0.0)

    def counts(self, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """How many of the values each bin has."""
        places = np.searchsorted(self.edges, np.asarray(values, dtype=np.float64))
        return np.bincount(places, minlength=len(self.upper_B)).astype(np.int64)


def reference_bins(quantiles_Q: npt.ArrayLike, *, num_bins: int = NUM_BINS) -> ReferenceBins:
    """Bins of equal shares of the reference, as near as its ties allow. Raises ValueError on fewer quantiles than bins,
    or descending ones."""
    quantiles = np.asarray(quantiles_Q, dtype=np.float64)
    if quantiles.ndim != 1 or len(quantiles) <= num_bins or (np.diff(quantiles) < 0).any():
        raise ValueError(f"{num_bins} bins need more quantiles than that, ascending")
    last = len(quantiles) - 1
    edges, upper_B = [], [0.0]
    for value in np.unique(quantiles[[round(last * b / num_bins) for b in range(1, num_bins)]]):
        upper = (int(np.searchsorted(quantiles, value, side="right")) - 1) / last
        # Between two ties lies an interpolated quantile that no value has: no bin of its own.
        if min(upper - upper_B[-1], 1.0 - upper) >= 0.5 / num_bins:
            edges.append(float(value))
            upper_B.append(upper)
    if not edges:
        return _bins_around(float(quantiles[last // 2]), quantiles)
    return ReferenceBins(np.array(edges), np.array([*upper_B[1:], 1.0]))


def _bins_around(value: float, quantiles: Floats) -> ReferenceBins:
    """Below, at and above the value that nearly all of the reference is."""
    near = 1e-6 * max(1.0, abs(value))  # another batch may give another last digit
    edges = np.array([value - near, value + near])
    upper_B = (np.searchsorted(quantiles, edges, side="right") - 1) / (len(quantiles) - 1)
    return ReferenceBins(edges, np.array([*np.clip(upper_B, OFF_SHARE, 1.0 - OFF_SHARE), 1.0]))


def population_stability(counts_B: npt.ArrayLike, shares_B: npt.ArrayLike) -> float:
    """The population stability index: sum over bins of (found - expected) x ln(found / expected), both as shares.

    It is 0 where counts are in proportion to the shares, and symmetric otherwise. Of n independent values of the
    reference it is some (B - 1) / n by chance. A reading of it in use since credit scoring: under 0.1 the same
    distribution, above 0.25 another. Raises ValueError on no value or an expected share of 0.
    """
    counts, shares = np.asarray(counts_B, dtype=np.float64), np.asarray(shares_B, dtype=np.float64)
    if counts.shape != shares.shape or not counts.sum() or not (shares > 0).all():
        raise ValueError("there must be a count and a share above 0 for each bin, and a value in one")
    prior = PRIOR * len(shares)
    found = (counts + prior * shares) / (counts.sum() + prior)
    return float(((found - shares) * np.log(found / shares)).sum())
