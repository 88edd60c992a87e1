"""How the rewards of an ensemble's members become one score: mean, min, mean - k x std. Pure; called by `ensemble`.

A minimum or a penalty on disagreement is the conservative choice where a policy optimises against the score (Coste et
al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization"). Legend: N completions, M members.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.errors import BundleError

Floats = npt.NDArray[np.float64]

RULES: dict[str, Callable[[Floats, float], Floats]] = {
    "mean": lambda rewards_NM, k: rewards_NM.mean(axis=1),
    "min": lambda rewards_NM, k: rewards_NM.min(axis=1),
    "mean_minus_std": lambda rewards_NM, k: rewards_NM.mean(axis=1) - k * rewards_NM.std(axis=1),
}


@dataclass(frozen=True, slots=True)
class Combination:
    """rule: of RULES. k: of `mean_minus_std`, how many of the members' population standard deviations come off."""

    rule: str = "mean"
    k: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BundleError(f"unknown rule {self.rule!r} for combining members", why=f"rules: {', '.join(RULES)}")
        if not math.isfinite(self.k) or self.k < 0:
            raise BundleError(f"k is {self.k}: how many standard deviations come off is a number from 0 on")

    def __str__(self) -> str:
        return f"mean - {self.k:g} x std" if self.rule == "mean_minus_std" else self.rule

    def combine(self, rewards_NM: npt.ArrayLike) -> Floats:
        """N scores, one a row of members' rewards."""
        return RULES[self.rule](np.asarray(rewards_NM, dtype=np.float64), self.k)

    def decides(self) -> dict[str, Any]:
        """What of it decides a score: `k` is of no effect but with `mean_minus_std`."""
        return {"rule": self.rule, **({"k": self.k} if self.rule == "mean_minus_std" else {})}
