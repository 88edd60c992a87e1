"""Is a step wrong, neutral or right? Called by the training step.

Legend: S steps, C = 3 classes.
"""

from __future__ import annotations

import torch
from torch.nn.functional import log_softmax

from rmray.objectives.labelled import labelled_terms
from rmray.objectives.shapes import check_alike, check_indices, widen
from rmray.objectives.terms import LossTerms

WRONG, NEUTRAL, RIGHT = 0, 1, 2
"""Classes: a step's label plus 1."""
NUM_CLASSES = 3


def process(scores_SC: torch.Tensor, class_S: torch.Tensor) -> LossTerms:
    """Cross-entropy of three classes at each step's last token, summed over S steps (process reward model; Lightman et
    al. 2023, "Let's Verify Step by Step").

    scores_SC: logits of wrong, neutral and right, read at each step's separator. class_S: int64, label + 1 of each
    step: 0 wrong, 1 neutral, 2 right. The weight is S.

    Metrics, sums over steps: `steps`, `wrong`, `neutral` and `right` (steps of each class), `correct` (the class has
    the highest logit, strictly: a tie for it is not right), `prob_sum` and `prob_sq_sum` (of P(right)). No step gives
    sums of 0, weight 0 and a zero gradient; a logit that is not finite, a loss of NaN. Raises ValueError on any other
    shape; RuntimeError (a fault of the device on a GPU) on a class that is not there.
    """
    if scores_SC.dim() != 2 or scores_SC.shape[1] != NUM_CLASSES:
        raise ValueError(f"scores_SC must be [S, {NUM_CLASSES}], it is {list(scores_SC.shape)}")
    check_indices("class_S", class_S)
    check_alike(**{"a column of scores_SC": scores_SC[:, 0], "class_S": class_S})
    wide_SC = widen(scores_SC)
    log_prob_SC = log_softmax(wide_SC, dim=1)
    loss_S = -log_prob_SC.gather(1, class_S[:, None]).squeeze(1)
    own_S = wide_SC.gather(1, class_S[:, None])
    return labelled_terms(
        # A logit of minus infinity is a probability of 0, and the loss of another class would hide it.
        loss_S + 0 * wide_SC.sum(1),
        wide_SC,
        prob_S=log_prob_SC[:, RIGHT].exp(),
        correct_S=(own_S > wide_SC).sum(1) == NUM_CLASSES - 1,
        counts={
            "steps": torch.ones_like(class_S),
            "wrong": class_S == WRONG,
            "neutral": class_S == NEUTRAL,
            "right": class_S == RIGHT,
        },
    )
