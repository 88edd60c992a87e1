"""Is a completion right, told at each of its tokens? Called by the training step.

Legend: S completion tokens.
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from rmray.objectives.labelled import labelled_terms
from rmray.objectives.shapes import check_alike, check_vector, widen
from rmray.objectives.terms import LossTerms


def outcome(scores_S: torch.Tensor, label_S: torch.Tensor) -> LossTerms:
    """Binary cross-entropy of the head at each completion token, summed over S tokens (outcome reward model; Cobbe et
    al. 2021, "Training Verifiers to Solve Math Word Problems").

    scores_S: one logit a completion token, sigmoid of which is the probability that the completion is right. label_S: 1
    or True where it is, 0 or False where not, the completion's label copied to each of its tokens; other values are not
    looked for. The weight is S.

    Metrics, sums over tokens: `tokens_read`, `positive` (label 1), `correct` (the logit's sign is the label's: a logit
    of exactly 0 is never right), `prob_sum`, `prob_sq_sum`. No token gives sums of 0, weight 0 and a zero gradient; a
    logit that is not finite, a loss of NaN. Raises ValueError on any other shape: [S] never broadcasts against [S, 1].
    """
    check_vector("scores_S", scores_S)
    check_alike(scores_S=scores_S, label_S=label_S)
    wide_S = widen(scores_S)
    is_right_S = label_S.bool()
    loss_S = binary_cross_entropy_with_logits(wide_S, is_right_S.to(wide_S), reduction="none")
    return labelled_terms(
        loss_S,
        wide_S,
        prob_S=wide_S.sigmoid(),
        correct_S=torch.where(is_right_S, wide_S > 0, wide_S < 0),
        counts={"tokens_read": torch.ones_like(is_right_S), "positive": is_right_S},
    )
