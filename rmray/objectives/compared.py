"""What every objective over compared scores reports beside its loss: sums over pairs of a better and a worse score.

Called by `pairwise`, `all_pairs` and `plackett_luce`; `labelled` shares its extremes. Legend: P pairs.
"""

from __future__ import annotations

import torch

from rmray.objectives.terms import LossTerms


def compared_terms(
    loss_sum: torch.Tensor, weight: float, chosen_scores_P: torch.Tensor, rejected_scores_P: torch.Tensor
) -> LossTerms:
    """A loss and its weight, with the figures of the P pairs that it ranks.

    The metrics are sums over pairs, each counting once whatever the loss's unit: `pairs`, `correct` (r_c > r_r,
    strictly), `ties` (r_c = r_r), `margin_sum` (r_c - r_r, no target subtracted), `chosen_sum`, `rejected_sum`, and
    `score_sq_sum` (r_c^2 + r_r^2, for the scores' spread). So accuracy is the share of strictly ordered pairs that are
    ranked right, the same figure for every objective and the one that evaluation gives.
    """
    chosen_P, rejected_P = chosen_scores_P.detach().double(), rejected_scores_P.detach().double()
    return LossTerms(
        loss_sum=loss_sum,
        weight=weight,
        metrics={
            "pairs": torch.full((), chosen_P.numel(), dtype=torch.float64, device=chosen_P.device),
            "correct": (chosen_P > rejected_P).sum().double(),
            "ties": (chosen_P == rejected_P).sum().double(),
            "margin_sum": (chosen_P - rejected_P).sum(),
            "chosen_sum": chosen_P.sum(),
            "rejected_sum": rejected_P.sum(),
            "score_sq_sum": (chosen_P.square() + rejected_P.square()).sum(),
        },
        score_min=-largest(-chosen_P, -rejected_P),
        score_max=largest(chosen_P, rejected_P),
        # The gap as the loss sees it, in the scores' own precision.
        gap_max=largest((chosen_scores_P - rejected_scores_P).detach().abs()),
    )


def largest(*values_P: torch.Tensor) -> torch.Tensor:
    """The largest of all, 0-dim float64; minus infinity where there is none."""
    # The first element stands for "nothing yet"; amax of an empty tensor is an error.
    none = torch.full((1,), -torch.inf, dtype=torch.float64, device=values_P[0].device)
    return torch.cat([none, *(values.double() for values in values_P)]).amax()
