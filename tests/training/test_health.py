"""Each warning fires, stays silent just short of its threshold, is told once, clears, and says what to try."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from rmray.training.health import HealthMonitor, HealthWarning
from tests.training.curves import WARMUP, evaluation, step_result


def kinds(warnings: Sequence[HealthWarning]) -> list[str]:
    return [warning.kind for warning in warnings]


def after_steps(monitor: HealthMonitor, start: int, steps: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """(step, kind) of the warnings that steps of these figures give, from step `start` on."""
    results = [step_result(start + i, **figures) for i, figures in enumerate(steps)]
    return [(w.step, w.kind) for result in results for w in monitor.after_step(result)]


def trained_on(monitor: HealthMonitor, correct: int, pairs: int, **figures: Any) -> None:
    """One step of so many pairs, of which so many were ranked rightly."""
    assert not monitor.after_step(step_result(0, accuracy=correct / pairs, pairs=pairs, **figures))


# --- not learning ---


@pytest.mark.parametrize(("high", "expected"), [(0.5999, ["not learning"]), (0.6, []), (0.75, [])])
def test_not_learning_is_an_interval_that_ends_under_0_6(high: float, expected: list[str]) -> None:
    assert kinds(HealthMonitor(300, WARMUP).after_evaluation(149, evaluation(high - 0.05, 0.05))) == expected


@pytest.mark.parametrize(("step", "expected"), [(98, []), (99, ["not learning"]), (100, ["not learning"])])
def test_not_learning_is_judged_when_a_third_of_the_steps_is_done(step: int, expected: list[str]) -> None:
    assert kinds(HealthMonitor(300, WARMUP).after_evaluation(step, evaluation(0.5))) == expected


def test_not_learning_is_judged_at_one_evaluation_alone() -> None:
    slow = HealthMonitor(300, WARMUP)
    assert [kinds(slow.after_evaluation(step, evaluation(0.5))) for step in (50, 120, 200)] == [
        [],
        ["not learning"],
        [],
    ]
    late = HealthMonitor(300, WARMUP)
    assert [kinds(late.after_evaluation(step, evaluation(a))) for step, a in ((120, 0.7), (200, 0.5))] == [[], []]


# --- overfit ---


@pytest.mark.parametrize(("correct", "expected"), [(901, ["overfit"]), (899, []), (750, []), (600, [])])
def test_overfit_is_a_difference_over_0_15(correct: int, expected: list[str]) -> None:
    monitor = HealthMonitor(300, WARMUP)
    trained_on(monitor, correct, 1000)
    assert kinds(monitor.after_evaluation(10, evaluation(0.75, 0.01))) == expected


@pytest.mark.parametrize(("half", "expected"), [(0.12, ["overfit"]), (0.14, [])])
def test_overfit_needs_intervals_that_lie_apart(half: float, expected: list[str]) -> None:
    # 90 of 100: Wilson's 95% interval begins at 0.8256.
    monitor = HealthMonitor(300, WARMUP)
    trained_on(monitor, 90, 100)
    assert kinds(monitor.after_evaluation(10, evaluation(0.70, half))) == expected


def test_few_training_pairs_are_no_overfit() -> None:
    monitor = HealthMonitor(300, WARMUP)
    trained_on(monitor, 18, 20)
    assert monitor.after_evaluation(10, evaluation(0.70, 0.01)) == []


def test_overfit_looks_at_the_steps_since_the_last_evaluation_alone() -> None:
    monitor = HealthMonitor(300, WARMUP)
    trained_on(monitor, 700, 1000)
    trained_on(monitor, 700, 1000)
    assert monitor.after_evaluation(10, evaluation(0.7, 0.01)) == []
    trained_on(monitor, 950, 1000)
    assert kinds(monitor.after_evaluation(20, evaluation(0.7, 0.01))) == ["overfit"]  # 0.78 over all three
    assert monitor.after_evaluation(30, evaluation(0.3, 0.01)) == []  # no step since


def test_overfit_weighs_steps_by_their_pairs_and_leaves_skipped_ones_out() -> None:
    monitor = HealthMonitor(300, WARMUP)
    trained_on(monitor, 84, 100)
    trained_on(monitor, 800, 1000)
    assert kinds(monitor.after_step(step_result(3, applied=False, loss=None, accuracy=1.0, pairs=4000))) == ["unstable"]
    [found] = monitor.after_evaluation(10, evaluation(0.6, 0.01))
    assert found.figures["train_accuracy"] == pytest.approx(884 / 1100)
    assert found.figures["train_pairs"] == 1100


def test_overfit_is_told_again_only_after_the_difference_has_fallen_to_0_10() -> None:
    monitor, told = HealthMonitor(300, WARMUP), []
    for held_out in (0.70, 0.76, 0.74, 0.81, 0.70, 0.70):
        trained_on(monitor, 900, 1000)
        told.append(kinds(monitor.after_evaluation(10, evaluation(held_out, 0.01))))
    assert told == [["overfit"], [], [], [], ["overfit"], []]


# --- collapse ---

AFTER_WARMUP = [{"score_std": std} for std in (2.0, 1.0, 1.2, 0.5, 0.8)]  # their median is 1.0


@pytest.mark.parametrize(("std", "expected"), [(0.0099, [(WARMUP + 7, "collapse")]), (0.01, []), (0.5, [])])
def test_collapse_is_a_spread_under_a_hundredth_of_its_value_after_warmup(std: float, expected: object) -> None:
    monitor = HealthMonitor(300, WARMUP)
    assert after_steps(monitor, WARMUP, [*AFTER_WARMUP, *[{"score_std": std}] * 4]) == expected


@pytest.mark.parametrize(("gap", "expected"), [(0.99e-3, [(52, "collapse")]), (1e-3, []), (0.5, [])])
def test_collapse_is_gaps_all_under_a_thousandth(gap: float, expected: object) -> None:
    assert after_steps(HealthMonitor(300, WARMUP), 50, [{"gap_max": gap}] * 4) == expected


def test_before_warmup_nothing_is_collapsed_and_no_spread_is_taken_for_usual() -> None:
    monitor = HealthMonitor(300, WARMUP)
    assert (
        after_steps(monitor, 0, [{"score_std": 500.0}] * (WARMUP - 4) + [{"score_std": 0.0, "gap_max": 0.0}] * 4) == []
    )
    assert after_steps(monitor, WARMUP, [{"score_std": 1.0}] * 20) == []


@pytest.mark.parametrize("flat", [{"score_std": 0.001}, {"gap_max": 0.0}])
def test_two_freak_steps_are_no_collapse_and_skipped_or_empty_ones_neither_count_nor_break_a_row(flat: Any) -> None:
    monitor = HealthMonitor(300, WARMUP)
    assert after_steps(monitor, WARMUP, [*AFTER_WARMUP, *[flat, flat, {}] * 5]) == []
    empty = {"loss": None, "accuracy": None, "score_std": None, "gap_max": None, "pairs": 0}
    told = after_steps(monitor, 50, [flat, empty, flat, {"applied": False, **flat}, flat])
    assert [t for t in told if t[1] == "collapse"] == [(54, "collapse")]


def test_collapse_clears_after_three_sound_steps() -> None:
    monitor, flat = HealthMonitor(300, WARMUP), {"gap_max": 0.0}
    two_sound = [{}, {}, *[flat] * 5]
    told = after_steps(monitor, 50, [*[flat] * 5, *two_sound, *two_sound, {}, *two_sound])
    assert told == [(52, "collapse"), (74, "collapse")]


# The std of probabilities, of a step without pairs.
PROBABILITIES = [{"score_std": std, "gap_max": None, "pairs": 0} for std in (0.2, 0.1, 0.12, 0.05, 0.08)]


@pytest.mark.parametrize(("std", "expected"), [(0.00099, [(WARMUP + 7, "collapse")]), (0.001, []), (0.1, [])])
def test_where_completions_are_labelled_the_spread_alone_tells_of_a_collapse(std: float, expected: object) -> None:
    monitor = HealthMonitor(300, WARMUP, objective="outcome")
    flat = {"score_std": std, "gap_max": None, "pairs": 0}
    assert after_steps(monitor, WARMUP, [*PROBABILITIES, *[flat] * 4]) == expected
    assert after_steps(HealthMonitor(300, WARMUP, objective="outcome"), WARMUP, [flat] * 30) == []  # as it began


# --- unstable ---


@pytest.mark.parametrize(("loss", "expected"), [(1.51, [(20, "unstable")]), (1.5, []), (0.9, [])])
def test_unstable_is_a_loss_over_three_times_its_median(loss: float, expected: object) -> None:
    losses = [0.4, 0.5, 0.6, 0.5] * 5
    assert after_steps(HealthMonitor(300, WARMUP), 0, [{"loss": x} for x in [*losses, loss]]) == expected


def test_the_median_is_of_the_last_fifty_steps() -> None:
    falling = [2.0] * 100 + [0.5] * 26
    assert after_steps(HealthMonitor(300, WARMUP), 0, [{"loss": x} for x in [*falling, 1.6]]) == [(126, "unstable")]
    assert after_steps(HealthMonitor(300, WARMUP), 0, [{"loss": x} for x in [*falling[:-4], 1.6]]) == []


@pytest.mark.parametrize(("history", "expected"), [(9, []), (10, [(10, "unstable")])])
def test_a_spike_needs_a_history(history: int, expected: object) -> None:
    assert after_steps(HealthMonitor(300, WARMUP), 0, [{"loss": x} for x in [*[0.6] * history, 5.0]]) == expected


@pytest.mark.parametrize(("loss", "expected"), [(0.3, []), (0.301, [(20, "unstable")])])
def test_near_zero_a_few_misranked_pairs_are_no_explosion(loss: float, expected: object) -> None:
    assert after_steps(HealthMonitor(300, WARMUP), 0, [{"loss": x} for x in [*[0.01] * 20, loss]]) == expected


@pytest.mark.parametrize(("pairs", "expected"), [(31, []), (32, [(20, "unstable")])])
def test_a_partial_batch_is_judged_with_those_before_it(pairs: int, expected: object) -> None:
    steps = [{"loss": 0.5}] * 20 + [{"loss": 3.0, "pairs": pairs}]
    assert after_steps(HealthMonitor(300, WARMUP), 0, steps) == expected
    assert after_steps(HealthMonitor(300, WARMUP), 0, [*steps[:-1], {"loss": 20.0, "pairs": 31}]) == [(20, "unstable")]


def test_small_batches_explode_too_once_enough_pairs_say_so() -> None:
    steps = [{"loss": 0.5, "pairs": 8}] * 30 + [{"loss": 3.0, "pairs": 8}] * 4
    assert after_steps(HealthMonitor(300, WARMUP), 0, steps) == [(31, "unstable")]  # (0.5 + 0.5 + 3 + 3) / 4 is 1.75


def test_the_pairs_of_a_few_prompts_are_few() -> None:
    # 48 pairs, but of 8 prompts: four steps are judged together.
    steps = [{"loss": 0.5, "pairs": 48, "comparisons": 8}] * 40
    worse = {"loss": 4.0, "pairs": 48, "comparisons": 8}
    assert after_steps(HealthMonitor(300, WARMUP), 0, [*steps, worse]) == []
    assert after_steps(HealthMonitor(300, WARMUP), 0, [*steps, worse, worse]) == [(41, "unstable")]


@pytest.mark.parametrize(("loss", "what"), [(None, "loss"), (0.6, "gradient")])
def test_a_skipped_step_is_unstable_at_once_and_names_its_rows(loss: float | None, what: str) -> None:
    result = step_result(0, applied=False, loss=loss, faulty_row_ids=("f:1", "f:7"))
    [found] = HealthMonitor(300, WARMUP).after_step(result)
    assert (found.kind, found.step, found.figures["faulty_row_ids"]) == ("unstable", 0, ["f:1", "f:7"])
    assert f"the {what} is not finite" in found.message
    assert "f:1, f:7" in found.message


def test_unstable_clears_after_ten_calm_steps() -> None:
    monitor, spike = HealthMonitor(300, WARMUP), {"loss": 9.0}
    told = after_steps(monitor, 0, [*[{}] * 20, spike, *[{}] * 9, spike, *[{}] * 10, spike, {}, {"applied": False}])
    assert told == [(20, "unstable"), (41, "unstable")]


def test_a_step_without_pairs_says_nothing() -> None:
    empty = {"loss": None, "accuracy": None, "score_std": None, "gap_max": None, "pairs": 0}
    assert after_steps(HealthMonitor(300, WARMUP), 0, [empty] * 50) == []


# --- what is said ---


def test_every_message_says_what_was_seen_why_it_matters_and_what_to_try() -> None:
    monitor = HealthMonitor(300, 0)
    trained_on(monitor, 900, 1000)
    found = monitor.after_evaluation(149, evaluation(0.5))
    for step in range(3):
        found += monitor.after_step(step_result(step, gap_max=1e-5))
    found += monitor.after_step(step_result(4, applied=False, loss=None))
    assert kinds(found) == ["not learning", "overfit", "collapse", "unstable"]
    told = dict(zip(kinds(found), found, strict=True))
    advice = {
        "not learning": ("optim.lr", "20 quarantined", "20 pairs that the model ranks the wrong way"),
        "overfit": ("fewer epochs", "dropout", "LoRA", "frozen", "add data"),
        "collapse": ("preferences", "raise optim.lr", "regularise less"),
        "unstable": ("Lower optim.lr", "clip", "warm-up"),
    }
    for kind, words in advice.items():
        warning = told[kind]
        assert warning.message.startswith(f"{kind} at step {warning.step}: {warning.seen}. {warning.why}")
        assert all(word in warning.advice for word in words)
        assert warning.message.endswith(warning.advice)
        assert json.loads(json.dumps(warning.figures)) == warning.figures
    assert "0.530 at most" in told["not learning"].seen
    assert "0.900 on the 1000 training pairs" in told["overfit"].seen
    assert "more than 1e-05 apart" in told["collapse"].seen


@pytest.mark.parametrize(("objective", "trained_on"), [("outcome", "completions"), ("process", "solutions' steps")])
def test_messages_of_labelled_runs_do_not_speak_of_pairs(objective: str, trained_on: str) -> None:
    monitor = HealthMonitor(300, 0, objective=objective)
    trained_on_steps = [{**figures, "accuracy": 0.9, "comparisons": 200} for figures in PROBABILITIES]
    assert after_steps(monitor, 0, trained_on_steps) == []
    found = monitor.after_evaluation(149, evaluation(0.5))
    for step in range(5, 8):
        found += monitor.after_step(step_result(step, score_std=0.0, gap_max=None, pairs=0))
    assert kinds(found) == ["not learning", "overfit", "collapse"]
    assert f"0.900 on the 1000 training {trained_on}" in found[1].seen
    assert found[2].seen.startswith("the probabilities' std is 0,")
    assert not [w for w in found for word in ("pair", "rank", "prefer", "objective.center") if word in w.message]
    assert not any("pairs" in key for w in found for key in w.figures)


def test_figures_need_no_torch() -> None:
    code = "import sys, rmray.training.health, rmray.training.early_stopping; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
