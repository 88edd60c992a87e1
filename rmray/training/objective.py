"""A loss of `OBJECTIVES` with its options: what rows weigh, which of their scores are compared, and the loss itself.

Used by the step, by collation and by evaluation during training. Legend: S scores, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from rmray.data.labels import StepTargets, TokenTargets, build_steps, build_tokens, num_labelled_tokens
from rmray.data.pairs import MarginRule, PairTargets, build_targets, pairs_of
from rmray.data.prepared import Row
from rmray.data.rankings import OrderTargets, build_orders, build_row_pairs, has_order
from rmray.objectives import OBJECTIVES, LossTerms
from rmray.objectives.shapes import wide

Targets = PairTargets | OrderTargets | TokenTargets | StepTargets
"""What a loss compares scores with, or to: a dataclass whose fields are named as the loss's arguments."""
PAIRWISE = ("bradley_terry", "all_pairs")
COMPARING = (*PAIRWISE, "plackett_luce")
"""Losses whose rows are comparisons, and whose figures are of pairs."""
TARGETS: dict[str, Callable[[Sequence[Row]], Targets]] = {
    "plackett_luce": build_orders,
    "outcome": build_tokens,
    "process": build_steps,
}
"""What makes targets of rows alone, without options."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss of `OBJECTIVES` with its options, which are those of pairs; the config refuses them for other losses.

    margin: how a pair's target margin is found (see `pairs`). aggregate: what makes one score of an outcome or
    process model's probabilities, `mean`, `min` or `product`; no loss knows it, held-out figures do.
    """

    name: str = "bradley_terry"
    margin: MarginRule = "none"
    center: float = 0.0
    label_smoothing: float = 0.0
    aggregate: str = ""

    @property
    def compares(self) -> bool:
        """Whether completions are compared, and not each judged by itself."""
        return self.name in COMPARING

    def weight(self, rows: Iterable[Row]) -> float:
        """The weight that the rows' terms will have, known before any forward: pairs, rows with any order, completion
        tokens, or steps."""
        if not self.compares:
            return float(sum(self.num_scores(row) for row in rows))
        if self.name == "bradley_terry":
            return float(sum(len(pairs_of(row.ranks)) for row in rows))
        return float(sum(has_order(row.ranks) for row in rows))

    def num_scores(self, row: Row) -> int:
        """Scores that a row has in a batch."""
        if self.name == "outcome":
            return num_labelled_tokens(row)
        return len(row.labels) if self.name == "process" else len(row.ranks)

    def targets(self, rows: Sequence[Row]) -> Targets:
        """Which scores of the rows' batch are compared, or what each should be."""
        if self.name in TARGETS:
            return TARGETS[self.name](rows)
        build = build_row_pairs if self.name == "all_pairs" else build_targets
        return build(rows, margin=self.margin, where=[row.row_id for row in rows])

    def terms(self, scores_S: torch.Tensor, targets: Targets) -> LossTerms:
        """Sums over the pairs, rows, tokens or steps of one batch."""
        arguments = {field.name: _beside(scores_S, getattr(targets, field.name)) for field in fields(targets)}
        if self.name in PAIRWISE:
            arguments |= {"center": self.center, "label_smoothing": self.label_smoothing}
        return OBJECTIVES[self.name](scores_S, **arguments)


def _beside(scores_S: torch.Tensor, value: Any) -> Any:
    """An array where the scores are, numbers in the precision of the loss; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(value)
    return tensor.to(scores_S.device, wide(scores_S.dtype) if tensor.is_floating_point() else None, non_blocking=True)
