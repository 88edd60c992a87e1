"""Rewards of members become one score: closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.errors import BundleError
from rmray.models.combine import Combination

REWARDS = [[1.0, 2.0, 3.0, 4.0], [-1.0, -1.0, -1.0, -1.0]]
STD = np.sqrt(1.25)  # of 1, 2, 3, 4


@pytest.mark.parametrize(
    ("combination", "expected"),
    [
        (Combination(), [2.5, -1.0]),
        (Combination("min"), [1.0, -1.0]),
        (Combination("mean_minus_std"), [2.5 - STD, -1.0]),
        (Combination("mean_minus_std", 2.0), [2.5 - 2 * STD, -1.0]),
        (Combination("mean_minus_std", 0.0), [2.5, -1.0]),
    ],
)
def test_what_members_combine_to(combination: Combination, expected: list[float]) -> None:
    assert combination.combine(REWARDS).tolist() == pytest.approx(expected, abs=1e-12)


def test_names_and_what_decides_a_score() -> None:
    assert [str(Combination(*c)) for c in (("mean",), ("min",), ("mean_minus_std", 0.5))] == [
        "mean",
        "min",
        "mean - 0.5 x std",
    ]
    assert Combination("mean", 1.0).decides() == Combination("mean", 3.0).decides()
    assert Combination("mean_minus_std", 1.0).decides() != Combination("mean_minus_std", 3.0).decides()


@pytest.mark.parametrize("wrong", [("median", 1.0), ("mean_minus_std", -1.0), ("mean", float("nan"))])
def test_other_rules_are_refused(wrong: tuple[str, float]) -> None:
    with pytest.raises(BundleError):
        Combination(*wrong)
