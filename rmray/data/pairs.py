"""Turn ranks into pairs and target margins: which score should beat which, and by how much. numpy only.

Called by the training step, by evaluation, and by prepare, which keeps out rows that have no target margin. Legend: S
scores in the order group after group, completion after completion; P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rmray.errors import RowError

MarginRule = str | float
"""`none`, `data` (the row's `margin`), `rating_difference` (of the row's scores), or a constant in score units."""

RULES_OF_THE_ROW = ("data", "rating_difference")  # rules that a row can fail


class Ranked(Protocol):
    """What pairs are made of: a `schema.Comparison` or a `prepared.Row`. ranks: K numbers, 0 is best."""

    @property
    def ranks(self) -> tuple[int, ...]: ...
    @property
    def ratings(self) -> tuple[float, ...] | None: ...
    @property
    def margin(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class PairTargets:
    """chosen_P, rejected_P: int64 indices into the S scores of a batch. margin_P: float64 target margins."""

    chosen_P: npt.NDArray[np.int64]
    rejected_P: npt.NDArray[np.int64]
    margin_P: npt.NDArray[np.float64]

    @property
    def num_pairs(self) -> int:
        return len(self.chosen_P)


def pairs_of(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """All strictly ordered pairs (better k, worse k) of K completions; tied completions make no pair."""
    places = range(len(ranks))
    return [(better, worse) for better in places for worse in places if ranks[better] < ranks[worse]]


def target_margins(row: Ranked, rule: MarginRule, *, where: str = "") -> npt.NDArray[np.float64]:
    """The target margin of each pair of `pairs_of(row.ranks)`, float64 [P], in score units.

    where: file and line, or row id, for the error. Raises RowError where the row lacks what the rule needs:
    `missing_margin`, `missing_scores`, `contradicting_scores`, `margin_of_several_pairs`.
    """
    pairs = pairs_of(row.ranks)
    if rule == "none":
        return np.zeros(len(pairs))
    if isinstance(rule, int | float):
        return np.full(len(pairs), float(rule))
    if rule == "data":
        return np.full(len(pairs), _row_margin(row, len(pairs), where))
    if rule == "rating_difference":
        if row.ratings is None:
            raise RowError(
                "missing_scores",
                "the row has no scores to take a margin from",
                where=where,
                why="objective.margin is `rating_difference`: a 5 against a 2 asks for a gap of 3",
                next_step="add `scores` to the row, or set objective.margin to `none`, `data` or a number",
            )
        differences = np.array([row.ratings[better] - row.ratings[worse] for better, worse in pairs], dtype=np.float64)
        if (differences < 0).any():
            raise RowError(
                "contradicting_scores",
                "the row's scores contradict its order",
                where=where,
                why=f"ranks {list(row.ranks)} (0 is best), scores {list(row.ratings)}",
                next_step="mend the row, or set objective.margin to `none`, `data` or a number",
            )
        return differences
    raise ValueError(f"unknown margin rule {rule!r}")


def check_margins(row: Ranked, rule: MarginRule) -> None:
    """Raise RowError where the row cannot be trained on with this rule: as `target_margins`, and `bad_number` where a
    margin is more than float32, which losses are computed in, can hold."""
    margin_P = target_margins(row, rule)
    if np.abs(margin_P).max(initial=0.0) > np.finfo(np.float32).max:
        raise RowError("bad_number", "the target margin is out of range", why=f"it is {np.abs(margin_P).max():.1e}")


def _row_margin(row: Ranked, num_pairs: int, where: str) -> float:
    if row.margin is None:
        raise RowError(
            "missing_margin",
            "the row has no `margin`",
            where=where,
            why="objective.margin is `data`: every row brings its own target margin",
            next_step="add `margin` to the row, or set objective.margin to `none` or a number",
        )
    if num_pairs > 1:
        raise RowError(
            "margin_of_several_pairs",
            f"one `margin` for {num_pairs} pairs",
            where=where,
            why="objective.margin is `data`, which fits rows of two completions",
            next_step="set objective.margin to `rating_difference`, `none` or a number",
        )
    return row.margin


def build_targets(
    rows: Sequence[Ranked], *, margin: MarginRule = "none", where: Sequence[str] | None = None
) -> PairTargets:
    """Pairs of a whole batch, whose scores lie row after row. where: a name for each row, for errors."""
    chosen: list[int] = []
    rejected: list[int] = []
    margins: list[npt.NDArray[np.float64]] = [np.zeros(0)]
    start = 0
    for i, row in enumerate(rows):
        for better, worse in pairs_of(row.ranks):
            chosen.append(start + better)
            rejected.append(start + worse)
        margins.append(target_margins(row, margin, where=where[i] if where else ""))
        start += len(row.ranks)
    return PairTargets(
        np.array(chosen, dtype=np.int64), np.array(rejected, dtype=np.int64), np.concatenate(margins, dtype=np.float64)
    )
