"""How often, and by how much, chosen completions outscore rejected ones. Used by `summary`, benchmarks and baselines.

Legend: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Figures of at least one pair.

    accuracy: share of pairs with r_c > r_r, strictly: a tie is not a win. ties: pairs with r_c = r_r.
    margin: mean score gap r_c - r_r. mean_chosen, mean_rejected: mean scores.
    """

    pairs: int
    accuracy: float
    ties: int
    margin: float
    mean_chosen: float
    mean_rejected: float


def rank_pairs(chosen_P: npt.ArrayLike, rejected_P: npt.ArrayLike) -> Ranking:
    """Figures of P pairs of finite scores. Raises ValueError on no pair, a shape mismatch or a non-finite score."""
    chosen, rejected = check_pairs(chosen_P, rejected_P)
    return Ranking(
        pairs=len(chosen),
        accuracy=float(np.mean(chosen > rejected)),
        ties=int(np.count_nonzero(chosen == rejected)),
        margin=float(np.mean(chosen - rejected)),
        mean_chosen=float(np.mean(chosen)),
        mean_rejected=float(np.mean(rejected)),
    )


def check_pairs(chosen_P: npt.ArrayLike, rejected_P: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 [P], P >= 1 and finite, or ValueError: nothing is ever broadcast."""
    chosen, rejected = np.asarray(chosen_P, dtype=np.float64), np.asarray(rejected_P, dtype=np.float64)
    if chosen.ndim != 1 or chosen.shape != rejected.shape:
        raise ValueError(f"scores of pairs must be two [P] arrays, not {list(chosen.shape)} and {list(rejected.shape)}")
    if not len(chosen):
        raise ValueError("there is no pair")
    if not (np.isfinite(chosen).all() and np.isfinite(rejected).all()):
        raise ValueError("a score is not finite")
    return chosen, rejected
