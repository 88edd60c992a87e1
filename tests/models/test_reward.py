"""Rewards and quantiles by arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.errors import BundleError
from rmray.models.reward import Reference, Unfinished, reference_of_scores


def of(scores: list[float]) -> Reference:
    return reference_of_scores(scores, hash="h", source="file")


def test_reward_is_distance_from_the_mean_in_population_standard_deviations() -> None:
    reference = of([1.0, 2.0, 3.0, 4.0])
    assert [round(reference.reward(r), 4) for r in (1, 2, 3, 4)] == [-1.3416, -0.4472, 0.4472, 1.3416]


def test_101_quantiles_give_the_share_below() -> None:
    reference = of([float(x) for x in range(101)])
    assert reference.quantiles == pytest.approx([float(x) for x in range(101)])
    assert [reference.quantile(x) for x in (-5, 0, 25, 25.5, 100, 1e9)] == pytest.approx([0, 0, 0.25, 0.255, 1, 1])


def test_quantile_among_equal_scores_is_their_middle_and_never_falls() -> None:
    reference = of([0.0] * 50 + [1.0] * 51)
    assert reference.quantile(1.0) == pytest.approx(0.75)
    assert reference.quantile(0.0) == pytest.approx(0.245)
    shares = [reference.quantile(x) for x in np.linspace(-1, 2, 50)]
    assert shares == sorted(shares)


def test_quantile_of_many_normal_scores_is_the_normal_distribution() -> None:
    reference = of(np.random.default_rng(0).normal(3.0, 2.0, 100_000).tolist())
    for z, share in ((-1.0, 0.1587), (0.0, 0.5), (1.0, 0.8413)):
        assert reference.quantile(3.0 + 2.0 * z) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("scores", "what"),
    [
        ([], "0 score"),
        ([1.0], "1 score"),
        ([2.5, 2.5, 2.5], "every reference score is 2.5"),
        ([1.0, float("nan")], "1 of 2 reference scores are not finite"),
    ],
)
def test_scores_that_normalise_nothing_are_refused(scores: list[float], what: str) -> None:
    with pytest.raises(BundleError, match=what):
        of(scores)


def test_json_round_trip_is_exact() -> None:
    from dataclasses import asdict

    reference = of([0.1, 0.7, -3.3])
    assert Reference.from_json(asdict(reference)) == reference


@pytest.mark.parametrize("bad", [{"policy": "guess"}, {"penalty": -1.0}, {"penalty": float("nan")}])
def test_unfinished_policy_is_checked(bad: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        Unfinished(**bad)  # type: ignore[arg-type]
