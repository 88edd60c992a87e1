"""A loss of `OBJECTIVES` with its options: what rows weigh, which of their scores are compared, and the loss itself.

Used by the step, by collation and by evaluation during training. Legend: S scores, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from rmray.data.pairs import MarginRule, PairTargets, build_targets, pairs_of
from rmray.data.prepared import Row
from rmray.objectives import OBJECTIVES, LossTerms


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss of `OBJECTIVES` with its options. margin: how a pair's target margin is found (see `pairs`)."""

    name: str = "bradley_terry"
    margin: MarginRule = "none"
    center: float = 0.0

    def weight(self, rows: Iterable[Row]) -> float:
        """The weight that the rows' terms will have, known before any forward."""
        return float(sum(len(pairs_of(row.ranks)) for row in rows))

    def targets(self, rows: Sequence[Row]) -> PairTargets:
        """Which scores of the rows' batch make pairs."""
        return build_targets(rows, margin=self.margin, where=[row.row_id for row in rows])

    def terms(self, scores_S: torch.Tensor, targets: PairTargets) -> LossTerms:
        """Sums over the pairs of one batch."""
        return OBJECTIVES[self.name](
            scores_S,
            torch.from_numpy(targets.chosen_P).to(scores_S.device, non_blocking=True),
            torch.from_numpy(targets.rejected_P).to(scores_S.device, non_blocking=True),
            margin_P=torch.from_numpy(targets.margin_P).to(scores_S, non_blocking=True),
            center=self.center,
        )
