"""The window of rewards: the last ones and no others, exact figures, drift where there is a reference."""

import numpy as np
import pytest

from rmray.models.reward import UNNORMALISED, reference_of_scores
from rmray.serving.window import MIN_REWARDS, QUANTILES, RewardWindow

SCORES = np.random.default_rng(0).normal(-3.0, 2.0, 5000)
REFERENCE = reference_of_scores(SCORES.tolist(), hash="ref", source="normal scores")
REWARDS = ((SCORES - REFERENCE.mean) / REFERENCE.std).tolist()


def window_of(rewards, reference=REFERENCE, **options):
    window = RewardWindow(reference, **options)
    window.add(rewards)
    return window.figures()


@pytest.mark.parametrize("sizes", [[3], [7, 5], [4, 4, 4], [25], [10, 1], [25, 3], [1] * 23])
def test_it_holds_the_last_rewards_however_they_came(sizes):
    rewards = np.random.default_rng(1).normal(size=sum(sizes))
    window = RewardWindow(None, size=10)
    for part in np.split(rewards, np.cumsum(sizes)[:-1]):
        window.add(part.tolist())
    figures, last = window.figures(), rewards[-10:]
    assert figures.num == len(last)
    assert (figures.mean, figures.std) == pytest.approx((last.mean(), last.std()))
    assert figures.quantiles == pytest.approx(np.quantile(last, QUANTILES))


def test_nothing_is_said_of_no_reward():
    assert RewardWindow(REFERENCE).figures() is None


def test_the_reference_itself_has_mean_0_spread_1_and_no_drift():
    figures = window_of(REWARDS, size=5000)
    assert (figures.mean, figures.std) == pytest.approx((0.0, 1.0))
    assert figures.drift.stability_index == pytest.approx(0.0, abs=1e-6)
    assert (figures.drift.below, figures.drift.above) == (0.0, 0.0)


def test_a_shift_and_a_spread_show_as_what_they_are():
    shifted = window_of([r + 1.0 for r in REWARDS], size=5000)
    assert (shifted.mean, shifted.std) == pytest.approx((1.0, 1.0))
    assert shifted.drift.stability_index > 0.7
    wider = window_of([2.0 * r for r in REWARDS], size=5000)
    assert (wider.mean, wider.std) == pytest.approx((0.0, 2.0))
    assert wider.drift.stability_index > 0.25


def test_what_no_reference_score_reached_is_told_by_side():
    low, high = min(REWARDS), max(REWARDS)
    figures = window_of([low - 1.0] * 100 + [high + 1.0] * 300 + [low, high] + [0.0] * 598)
    assert (figures.drift.below, figures.drift.above) == (0.1, 0.3)


def test_few_rewards_and_no_reference_have_figures_and_no_drift():
    assert window_of(REWARDS[: MIN_REWARDS - 1]).drift is None
    assert window_of(REWARDS[:MIN_REWARDS]).drift is not None
    assert window_of(REWARDS, None).drift is None


def test_a_reference_before_normalising_is_one_too():
    assert window_of([0.5] * MIN_REWARDS, UNNORMALISED).drift.stability_index > 1.0
