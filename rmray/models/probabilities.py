"""From the logits of token heads to probabilities. Pure numpy; used by the scorer and by evaluation while training.

Legend: S tokens or steps, C classes of a step: wrong, neutral, right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

Floats = npt.NDArray[np.float64]

RIGHT = 2
"""The class of a right step."""


def token_probabilities(logits_S: npt.ArrayLike) -> Floats:
    """The probability [S] of being right, of an outcome head's logits."""
    probabilities_S: Floats = expit(np.asarray(logits_S, dtype=np.float64))
    return probabilities_S


def step_probabilities(logits_SC: npt.ArrayLike) -> Floats:
    """The probability [S, C] of each class, of a process head's logits."""
    probabilities_SC: Floats = softmax(np.asarray(logits_SC, dtype=np.float64), axis=1)
    return probabilities_SC
