"""What a reader of surfaces alone would score. Shown beside every accuracy: length must not be mistaken for quality."""

from __future__ import annotations

import numpy.typing as npt

from rmray.metrics.ranking import Ranking, rank_pairs


def length_rule(chosen_len_P: npt.ArrayLike, rejected_len_P: npt.ArrayLike) -> Ranking:
    """The rule "more characters wins" on P pairs; equal lengths are ties, and a tie is not a win."""
    return rank_pairs(chosen_len_P, rejected_len_P)
