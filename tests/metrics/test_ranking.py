"""Accuracy is strict, ties are counted, nothing broadcasts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmray.metrics.bias import length_rule
from rmray.metrics.ranking import Ranking, rank_pairs

SCORES = st.floats(-1e6, 1e6)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=50)


def test_golden_figures():
    assert rank_pairs([2.0, 1.5, 3.0, 0.5], [1.0, 1.0, 2.0, 1.0]) == Ranking(
        pairs=4, accuracy=0.75, ties=0, margin=0.5, mean_chosen=1.75, mean_rejected=1.25
    )


def test_a_tie_is_not_a_win():
    ranking = rank_pairs([1, 0.5, -0.2, 2, 0], [0, 0.7, 0.3, 1, 0])
    assert ranking.accuracy == 2 / 5
    assert ranking.ties == 1


def test_length_rule_prefers_more_characters():
    rule = length_rule([10, 3, 5], [4, 8, 5])
    assert (rule.accuracy, rule.ties, rule.margin) == (pytest.approx(1 / 3), 1, pytest.approx(1 / 3))


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="no pair"):
        rank_pairs([], [])
    with pytest.raises(ValueError, match="two \\[P\\] arrays"):
        rank_pairs([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="two \\[P\\] arrays"):
        rank_pairs(np.zeros((2, 1)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="not finite"):
        rank_pairs([1.0, np.nan], [1.0, 0.0])


@given(PAIRS)
def test_swapping_all_pairs_mirrors_every_figure(pairs):
    chosen, rejected = np.array(pairs).T
    there, back = rank_pairs(chosen, rejected), rank_pairs(rejected, chosen)
    assert round(there.accuracy * there.pairs) + round(back.accuracy * back.pairs) + there.ties == there.pairs
    assert there.ties == back.ties
    assert there.margin == -back.margin
    assert there.margin == pytest.approx(there.mean_chosen - there.mean_rejected, abs=1e-6)


@given(PAIRS, st.floats(-100, 100))
def test_a_constant_added_to_both_sides_changes_neither_ties_nor_wins_of_clear_pairs(pairs, constant):
    chosen, rejected = np.round(np.array(pairs).T)  # whole numbers: the addition is exact
    shift = round(constant)
    before, after = rank_pairs(chosen, rejected), rank_pairs(chosen + shift, rejected + shift)
    assert (before.accuracy, before.ties, before.margin) == (after.accuracy, after.ties, after.margin)
