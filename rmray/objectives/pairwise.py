"""Losses over pairs of scores. Called by the training step, which knows the scores and which of them form pairs.

Legend: S scores of a batch, P pairs.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from rmray.objectives.terms import LossTerms


def bradley_terry(
    scores_S: torch.Tensor,
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    *,
    margin_P: torch.Tensor | float = 0.0,
    center: float = 0.0,
) -> LossTerms:
    """softplus(-(r_c - r_r - m)) + center x (r_c + r_r)^2, summed over P pairs (Bradley and Terry 1952).

    scores_S: raw scores. chosen_P, rejected_P: int64 indices into S. margin_P: target margin m in score units, one
    number for all pairs or one a pair (Llama 2). center: coefficient of the centering term (Eisenstein et al. 2023;
    TRL recommends 0.01).

    The metrics are sums over pairs: `correct` (r_c > r_r, strictly), `ties` (r_c = r_r), `margin_sum` (r_c - r_r, no
    target subtracted), `chosen_sum`, `rejected_sum`, and `score_sq_sum` (r_c^2 + r_r^2, for the scores' spread). No
    pair at all gives sums of 0, weight 0 and a zero gradient, so that a rank with nothing to do can take part.

    A model trained so on correct against wrong answers ranks them; its score is no probability of being correct.

    Raises ValueError on any other shape: a [P] margin never broadcasts against [P, 1] scores.
    """
    _check_vector("scores_S", scores_S)
    _check_indices("chosen_P", chosen_P)
    _check_indices("rejected_P", rejected_P)
    if chosen_P.shape != rejected_P.shape:
        raise ValueError(f"chosen_P is {list(chosen_P.shape)} but rejected_P is {list(rejected_P.shape)}")
    if isinstance(margin_P, torch.Tensor) and margin_P.shape != chosen_P.shape:
        raise ValueError(f"margin_P must be a number or {list(chosen_P.shape)}, it is {list(margin_P.shape)}")

    # fp32 at least: in bf16, scores near 8 are 0.03 apart and close pairs would count as ties.
    wide_S = scores_S.float() if scores_S.dtype in (torch.bfloat16, torch.float16) else scores_S
    chosen_scores_P, rejected_scores_P = wide_S[chosen_P], wide_S[rejected_P]
    gap_P = chosen_scores_P - rejected_scores_P
    target_P = margin_P.to(gap_P) if isinstance(margin_P, torch.Tensor) else margin_P
    # -logsigmoid(x) is softplus(-x) without the cut at x = -20 that torch's softplus makes.
    loss_P = -logsigmoid(gap_P - target_P)
    if center:
        loss_P = loss_P + center * (chosen_scores_P + rejected_scores_P).square()
    return LossTerms(
        loss_sum=loss_P.sum(),
        weight=float(chosen_P.numel()),
        metrics=_pair_sums(chosen_scores_P, rejected_scores_P),
        score_min=-_largest(-chosen_scores_P, -rejected_scores_P),
        score_max=_largest(chosen_scores_P, rejected_scores_P),
        gap_max=_largest(gap_P.abs()),
    )


def _pair_sums(chosen_scores_P: torch.Tensor, rejected_scores_P: torch.Tensor) -> dict[str, torch.Tensor]:
    chosen_P, rejected_P = chosen_scores_P.detach().double(), rejected_scores_P.detach().double()
    return {
        "correct": (chosen_P > rejected_P).sum().double(),
        "ties": (chosen_P == rejected_P).sum().double(),
        "margin_sum": (chosen_P - rejected_P).sum(),
        "chosen_sum": chosen_P.sum(),
        "rejected_sum": rejected_P.sum(),
        "score_sq_sum": (chosen_P.square() + rejected_P.square()).sum(),
    }


def _largest(*values_P: torch.Tensor) -> torch.Tensor:
    # The first element stands for "nothing yet"; amax of an empty tensor is an error.
    none = torch.full((1,), -torch.inf, dtype=torch.float64, device=values_P[0].device)
    return torch.cat([none, *(values.detach().double() for values in values_P)]).amax()


def _check_vector(name: str, tensor: torch.Tensor) -> None:
    if tensor.dim() != 1:
        raise ValueError(f"{name} must have one dimension, it is {list(tensor.shape)}: scores are flat, never [B, 1]")


def _check_indices(name: str, tensor: torch.Tensor) -> None:
    _check_vector(name, tensor)
    if tensor.dtype != torch.int64:
        raise ValueError(f"{name} must hold int64 indices into the scores, it holds {tensor.dtype}")
