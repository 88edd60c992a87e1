"""One number for a completion from the probabilities of its tokens or steps. Used by evaluation and by scorers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Aggregates(NamedTuple):
    """product <= min <= mean, always."""

    mean: float
    min: float
    product: float


def aggregate(probabilities: npt.ArrayLike) -> Aggregates:
    """Mean, smallest and product of one completion's probabilities of being right; the product by way of logarithms.

    The mean asks how sure the model is on the whole, the smallest (Lightman et al. 2023) how sure of the weakest place,
    the product how likely all are right, if they were independent; it falls with every place more. Raises ValueError
    where there is none, or one outside [0, 1].
    """
    probs = np.asarray(probabilities, dtype=np.float64)
    if probs.ndim != 1 or not len(probs):
        raise ValueError(f"probabilities must be [S] and not empty, they are {list(probs.shape)}")
    if not ((probs >= 0) & (probs <= 1)).all():
        raise ValueError("a probability lies outside [0, 1]")
    low, high = float(probs.min()), float(probs.max())
    with np.errstate(divide="ignore"):  # the logarithm of 0 is minus infinity, and the product 0
        product = float(np.exp(np.log(probs).sum()))
    # Rounding may carry the product of ones, or the mean of equal numbers, past its neighbour.
    return Aggregates(mean=min(max(float(probs.mean()), low), high), min=low, product=min(product, low))
