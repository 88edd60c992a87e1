"""The surface baseline on the pairs that are evaluated: a bounded sample of their features, and what a fit makes of it.

Called by `pair_log`, which fills the sample, and by `figures`. Legend: P pairs, F surface features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.data.keys import hash64, prompt_key
from rmray.data.pairs import pairs_of
from rmray.evaluation.smallest_keys import SmallestKeys
from rmray.metrics.baselines import surface_difference, surface_gaps
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.ranking import Floats
from rmray.schema import Comparison, Content, TokenIds, plain_text

SURFACE_PAIRS = 20_000
FOLDS = 5
MIN_PAIRS = 20
"""Fewer teach a fit nothing that a reader should see."""

SampledPairs = tuple[Floats, npt.NDArray[np.uint64]]
"""Differences of surface features [P, F], and the prompts [P] they are of."""


class SurfaceSample:
    """Surface differences of the SURFACE_PAIRS pairs with the smallest keys."""

    def __init__(self, size: int = SURFACE_PAIRS) -> None:
        self._kept: SmallestKeys[tuple[int, npt.NDArray[np.float32]]] = SmallestKeys(size)

    def offer(self, key: int, prompt: int, chosen: Content, rejected: Content) -> None:
        """Keep a pair, if it is among the smallest so far and has text."""
        if self._kept.wants(key) and not isinstance(chosen, TokenIds) and not isinstance(rejected, TokenIds):
            difference = surface_difference((plain_text(chosen), plain_text(rejected)))
            self._kept.put({key: (prompt, difference.astype(np.float32))})

    def merge(self, other: SurfaceSample) -> None:
        self._kept.merge(other._kept)

    def arrays(self) -> SampledPairs:
        """(differences [P, F], prompts [P]), by key."""
        kept = self._kept.values()
        differences = np.array([difference for _, difference in kept], dtype=np.float64)
        return differences, np.array([prompt for prompt, _ in kept], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class SurfaceFigures:
    """The surface baseline on `pairs` of the evaluated pairs, `ties` of which look alike to it. fitted_on: what taught
    it, `fitted_pairs` of them."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    pairs: int
    ties: int
    fitted_on: str
    fitted_pairs: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def surface_figures(
    sample: SampledPairs, train: SampledPairs | None = None, *, seed: int = 0
) -> tuple[SurfaceFigures | None, list[str]]:
    """The baseline's figures, and what there is to say of its fit.

    It learns from the training pairs where there are enough of them, those of prompts that are evaluated left out; else
    from the other folds of the sample, by prompt. None where there is too little to fit on.
    """
    held_out_PF, prompts_P = sample
    notes = []
    if train is not None:
        unseen = ~np.isin(train[1], prompts_P)
        train_PF = train[0][unseen]
        if not unseen.all():
            notes.append(
                f"{np.count_nonzero(~unseen)} of {len(unseen)} training pairs are of prompts that are evaluated: the "
                "surface baseline did not learn from them, but the model may have."
            )
        if len(train_PF) >= MIN_PAIRS and len(held_out_PF):
            gap_P = surface_gaps(train_PF, held_out_PF)
            return _figures(gap_P, prompts_P, "training pairs", len(train_PF), seed), notes
        notes.append(
            f"The surface baseline learns from the evaluated set: there are {len(train_PF)} training pairs to "
            "learn from."
        )
    folds_P = prompts_P % FOLDS  # prompts are hashes: a fair cut, and no prompt on both sides
    if len(held_out_PF) < MIN_PAIRS or min(np.count_nonzero(folds_P != fold) for fold in range(FOLDS)) < 2:
        return None, notes
    gap_P = np.zeros(len(held_out_PF))
    for fold in np.unique(folds_P):
        gap_P[folds_P == fold] = surface_gaps(held_out_PF[folds_P != fold], held_out_PF[folds_P == fold])
    return _figures(gap_P, prompts_P, "other folds of the same set", len(held_out_PF), seed), notes


def _figures(
    gap_P: Floats, prompts_P: npt.NDArray[np.uint64], fitted_on: str, fitted_pairs: int, seed: int
) -> SurfaceFigures:
    interval = clustered_interval(gap_P > 0, prompts_P, seed=seed, bounds=(0.0, 1.0))
    return SurfaceFigures(
        accuracy=float(np.mean(gap_P > 0)),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        pairs=len(gap_P),
        ties=int(np.count_nonzero(gap_P == 0)),
        fitted_on=fitted_on,
        fitted_pairs=fitted_pairs,
    )


def sample_pairs(comparisons: Iterable[tuple[str, Comparison]]) -> SampledPairs:
    """A sample of the pairs of (row id, comparison), for a fit."""
    sample = SurfaceSample()
    for row_id, comparison in comparisons:
        prompt = prompt_key(comparison)
        for better, worse in pairs_of(comparison.ranks):
            texts = (comparison.completions[better], comparison.completions[worse])
            sample.offer(hash64(f"{row_id}:{better}:{worse}"), prompt, *texts)
    return sample.arrays()
