"""What every objective returns: sums and their weight, never means. Used by the training step and its tests.

The loss of a global step is (sum of `loss_sum`) / (sum of `weight`) over all micro-batches of all ranks: one division,
at the end. A mean of means is wrong as soon as two shards differ in size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LossTerms:
    """One micro-batch's share of the loss.

    loss_sum: 0-dim tensor with a gradient, float32 or wider. weight: number of units (pairs, prompts, tokens, steps)
    summed. metrics: detached 0-dim float64 sums, `correct` always one of them: over pairs where scores are compared
    (`pairs` is then another, as the weight may count other units), else over the labelled tokens or steps that the
    weight counts. score_min, score_max: detached 0-dim float64 extremes of the scores that took part (inf and -inf
    where there was none). gap_max: likewise the largest absolute gap of the scores compared (-inf where none were).
    """

    loss_sum: torch.Tensor
    weight: float
    metrics: Mapping[str, torch.Tensor]
    score_min: torch.Tensor
    score_max: torch.Tensor
    gap_max: torch.Tensor


def sum_terms(terms: Sequence[LossTerms]) -> LossTerms:
    """Add the terms of several micro-batches of one objective, for the one division that follows.

    Raises ValueError on an empty sequence, or where the terms do not carry the same metrics.
    """
    if not terms:
        raise ValueError("no terms to sum")
    names = set(terms[0].metrics)
    if any(set(t.metrics) != names for t in terms):
        raise ValueError("terms of different objectives cannot be summed: their metrics differ")
    return LossTerms(
        loss_sum=torch.stack([t.loss_sum for t in terms]).sum(),
        weight=sum(t.weight for t in terms),
        metrics={name: torch.stack([t.metrics[name] for t in terms]).sum() for name in terms[0].metrics},
        score_min=torch.stack([t.score_min for t in terms]).min(),
        score_max=torch.stack([t.score_max for t in terms]).max(),
        gap_max=torch.stack([t.gap_max for t in terms]).max(),
    )
