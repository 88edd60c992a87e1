"""What an objective over labelled places reports beside its loss: sums over tokens or steps read.

Called by `outcome` and `process`. Legend: S places whose scores are read.
"""

from __future__ import annotations

import torch

from rmray.objectives.compared import largest
from rmray.objectives.terms import LossTerms


def labelled_terms(
    loss_S: torch.Tensor,
    scores: torch.Tensor,
    *,
    prob_S: torch.Tensor,
    correct_S: torch.Tensor,
    counts: dict[str, torch.Tensor],
) -> LossTerms:
    """The losses of S places, each of weight 1, with what is told of them.

    scores: the logits that were read, of any shape. prob_S: the probability that the place is right. counts: masks over
    the S places, summed under their names. The metrics are these, `correct`, and `prob_sum` and `prob_sq_sum` (of
    prob_S, for its mean and its spread). No score is compared with another one, so there is no gap.
    """
    logits, prob_S = scores.detach().double().reshape(-1), prob_S.detach().double()
    return LossTerms(
        loss_sum=loss_S.sum(),
        weight=float(loss_S.numel()),
        metrics={
            **{name: mask_S.sum().double() for name, mask_S in counts.items()},
            "correct": correct_S.sum().double(),
            "prob_sum": prob_S.sum(),
            "prob_sq_sum": prob_S.square().sum(),
        },
        score_min=-largest(-logits),
        score_max=largest(logits),
        gap_max=torch.full((), -torch.inf, dtype=torch.float64, device=scores.device),
    )
