"""Nothing is timed before it is shown to compute the same. Called by `train` and `score`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rmray.errors import RmrayError

if TYPE_CHECKING:
    import torch

FLOAT32_TOLERANCE = 1e-4
BFLOAT16_TOLERANCE = 5e-2
"""bf16 rounds at 4e-3, in every layer."""


class UnequalError(RmrayError):
    """Two rows do not compute the same, so that no time of theirs can be compared."""


def tolerance_of(dtype: str) -> float:
    """Largest distance relative to the norm (gradients) or to the largest score."""
    return FLOAT32_TOLERANCE if dtype == "float32" else BFLOAT16_TOLERANCE


def check_scores(name: str, scores: Sequence[float] | Any, ours: Sequence[float] | Any, tolerance: float) -> float:
    """The largest distance of two rows' scores over the largest score. Raises UnequalError above `tolerance`."""
    theirs, own = np.asarray(scores, dtype=np.float64), np.asarray(ours, dtype=np.float64)
    if theirs.shape != own.shape:
        raise UnequalError(f"{theirs.shape} scores against {own.shape}", where=name)
    distance = float(np.abs(theirs - own).max() / max(np.abs(own).max(), 1e-12))
    if not distance <= tolerance:
        raise UnequalError(
            f"its scores differ from rmray's by {distance:.1e} of the largest",
            where=name,
            why=f"at most {tolerance:.0e} is rounding; times of different computations are not compared",
            next_step="report it with the versions of torch, transformers and trl",
        )
    return distance


def check_gradients(
    name: str, gradients: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor], tolerance: float
) -> float:
    """The distance of two whole gradients over their norm. Raises UnequalError above `tolerance`."""
    if set(gradients) != set(ours):
        odd = sorted(set(gradients) ^ set(ours))
        raise UnequalError("the two sides train other parameters", where=name, why=", ".join(odd[:5]))
    square = {n: float((gradients[n].double() - g.double()).square().sum()) for n, g in ours.items()}
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in ours.values()))
    distance = math.sqrt(sum(square.values())) / max(norm, 1e-30)
    if not distance <= tolerance:
        worst = max(square, key=square.__getitem__)
        raise UnequalError(
            f"its gradient differs from rmray's by {distance:.1e} of the norm",
            where=name,
            why=f"at most {tolerance:.0e} is rounding; the largest part lies in {worst}",
            next_step="report it with the versions of torch, transformers and trl",
        )
    return distance
