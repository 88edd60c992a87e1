"""Ranks become pairs and target margins."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.data.pairs import build_targets, check_margins, pairs_of, target_margins
from rmray.errors import DataError, RowError
from rmray.schema import Comparison


def comparison(ranks, *, ratings=None, margin=None) -> Comparison:
    texts = tuple(f"answer {k}" for k in range(len(ranks)))
    return Comparison(prompt="p", completions=texts, ranks=tuple(ranks), ratings=ratings, margin=margin)


def test_strictly_ordered_pairs_alone():
    assert pairs_of([0, 1]) == [(0, 1)]
    assert pairs_of([1, 0]) == [(1, 0)]
    assert pairs_of([2, 0, 1]) == [(1, 0), (1, 2), (2, 0)]
    assert pairs_of([0, 1, 1]) == [(0, 1), (0, 2)], "the tied two make no pair"
    assert pairs_of([3, 3, 3]) == []


@pytest.mark.parametrize("num_completions", [2, 5, 9])
def test_no_ties_give_every_pair_once(num_completions):
    pairs = pairs_of(list(np.random.default_rng(0).permutation(num_completions)))
    assert len({frozenset(p) for p in pairs}) == len(pairs) == num_completions * (num_completions - 1) // 2


def test_margin_rules():
    row = comparison([0, 1], ratings=(5.0, 2.0), margin=0.25)
    assert target_margins(row, "none").tolist() == [0.0]
    assert target_margins(row, "data").tolist() == [0.25]
    assert target_margins(row, 1).tolist() == [1.0]
    assert target_margins(row, 0.5).tolist() == [0.5]
    assert target_margins(row, "rating_difference").tolist() == [3.0]
    three = comparison([1, 0, 2], ratings=(3.0, 5.0, 2.0))
    assert dict(zip(pairs_of(three.ranks), target_margins(three, "rating_difference"), strict=True)) == {
        (0, 2): 1.0,
        (1, 0): 2.0,
        (1, 2): 3.0,
    }


def test_a_row_that_lacks_what_the_rule_needs_is_named():
    with pytest.raises(DataError, match=r"abc:7: the row has no `margin`") as missing:
        target_margins(comparison([0, 1]), "data", where="abc:7")
    assert "objective.margin" in str(missing.value)
    with pytest.raises(DataError, match="no scores"):
        target_margins(comparison([0, 1], margin=1.0), "rating_difference")
    with pytest.raises(DataError, match="scores contradict its order"):
        target_margins(comparison([0, 1], ratings=(2.0, 5.0)), "rating_difference")
    with pytest.raises(DataError, match="one `margin` for 3 pairs"):
        target_margins(comparison([0, 1, 2], margin=1.0), "data")
    with pytest.raises(ValueError, match="unknown margin rule 'dta'"):
        target_margins(comparison([0, 1]), "dta")


@pytest.mark.parametrize(
    ("row", "rule", "code"),
    [
        (comparison([0, 1]), "data", "missing_margin"),
        (comparison([0, 1, 2], margin=1.0), "data", "margin_of_several_pairs"),
        (comparison([0, 1], margin=1e39), "data", "bad_number"),
        (comparison([0, 1]), "rating_difference", "missing_scores"),
        (comparison([0, 1], ratings=(2.0, 5.0)), "rating_difference", "contradicting_scores"),
        (comparison([0, 1], ratings=(1e308, -1e308)), "rating_difference", "bad_number"),
        (comparison([0, 1], margin=3.0), "data", None),
        (comparison([0, 1, 1], ratings=(2.0, 0.0, 1.0)), "rating_difference", None),
        (comparison([0, 1]), "none", None),
        (comparison([0, 1]), 0.5, None),
    ],
)
def test_rows_that_a_rule_cannot_take_are_told_apart_before_training(row, rule, code):
    if code is None:
        check_margins(row, rule)
        return
    with pytest.raises(RowError) as error:
        check_margins(row, rule)
    assert error.value.code == code


def test_targets_of_a_batch_count_scores_row_after_row():
    rows = [
        comparison([0, 1], ratings=(2.0, 1.0)),
        comparison([1, 1, 1], ratings=(4.0, 4.0, 4.0)),
        comparison([1, 0, 1], ratings=(1.0, 4.0, 1.0)),
    ]
    targets = build_targets(rows, margin="rating_difference")
    assert targets.chosen_P.tolist() == [0, 6, 6]
    assert targets.rejected_P.tolist() == [1, 5, 7]
    assert targets.margin_P.tolist() == [1.0, 3.0, 3.0]
    assert targets.num_pairs == 3
    assert targets.chosen_P.dtype == np.int64
    with pytest.raises(DataError, match="row 1"):
        build_targets(rows, margin="data", where=["row 1", "row 2", "row 3"])


def test_no_row_gives_empty_targets_of_the_right_types():
    targets = build_targets([])
    assert targets.num_pairs == 0
    assert (targets.chosen_P.dtype, targets.margin_P.dtype) == (np.int64, np.float64)
