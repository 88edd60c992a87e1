"""Figures of solutions judged step by step, by hand and against the benchmark's own."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.metrics.process import (
    UNTOLD,
    ProcessMetrics,
    called_labels,
    called_metrics,
    first_error,
    process_metrics,
)

# Wrong, neutral, right; what each row calls its step is beside it.
WRONG, NEUTRAL, RIGHT = [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]
EVEN = [0.4, 0.2, 0.4]


def test_figures_by_hand():
    probs = [[RIGHT, WRONG, RIGHT], [RIGHT, NEUTRAL], [WRONG, RIGHT], [RIGHT, EVEN]]
    labels = [[1, -1, -1], [1, 0], [1, 1], [1, -1]]
    got = process_metrics(probs, labels, ["a", "a", "b", "c"])
    assert (got.solutions, got.prompts, got.steps) == (4, 3, 9)
    assert (got.wrong_steps, got.neutral_steps, got.right_steps) == (3, 1, 5)
    assert got.step_accuracy == pytest.approx(6 / 9), "a right step called wrong, a wrong one right, one nothing"
    assert (got.wrong_recall, got.neutral_recall, got.right_recall) == (pytest.approx(1 / 3), 1.0, pytest.approx(4 / 5))
    assert got.majority_accuracy == pytest.approx(5 / 9)
    assert got.two_way_accuracy == pytest.approx(6 / 8), "0.4 lies on the wrong step's side, the neutral step on none"
    # Right steps: 0.8 four times and 0.1; wrong ones: 0.1, 0.8, 0.4. Won: (1 + 0.5 + 1) x 4, and 0.5 of 0.1 = 0.1.
    assert got.step_auc == pytest.approx((4 * 2.5 + 0.5) / 15)
    # With an error: found at 1; the even step is called nothing. Without: one is called right throughout, one not.
    assert (got.error_solutions, got.right_solutions) == (2, 2)
    assert (got.error_accuracy, got.right_accuracy, got.first_error_f1) == (0.5, 0.5, 0.5)
    for name in ("step_accuracy", "step_auc", "first_error_f1"):
        low, value, high = (getattr(got, name + end) for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1


def test_what_is_called():
    assert called_labels([WRONG, NEUTRAL, RIGHT, EVEN]).tolist() == [-1, 0, 1, UNTOLD]
    assert (first_error([1, 0, -1, -1]), first_error([1, 0, 1]), first_error([-1])) == (2, -1, 0)
    assert first_error(called_labels([RIGHT, EVEN])) == -1


def test_the_exact_step_is_asked_for():
    late = process_metrics([[RIGHT, RIGHT, WRONG], [RIGHT]], [[1, -1, -1], [1]], [0, 1])
    assert (late.error_accuracy, late.right_accuracy, late.first_error_f1) == (0.0, 1.0, 0.0)
    told = called_metrics([[1, 1, -1], [1]], [[0.5] * 3, [0.5]], [[1, -1, -1], [1]], [0, 1], called_errors=[1, -1])
    assert told.first_error_f1 == 1.0, "what a model says of its first error stands above what its steps are called"
    nothing = process_metrics([[WRONG], [WRONG, RIGHT]], [[1], [1, -1]], [0, 1])
    assert nothing.first_error_f1 == 0.0


def test_kinds_that_are_missing_have_no_figure():
    got = process_metrics([[RIGHT, RIGHT], [NEUTRAL]], [[1, 1], [0]], ["p", "p"])
    assert (got.step_accuracy, got.step_accuracy_low, got.step_accuracy_high) == (1.0, 0.0, 1.0)
    assert (got.wrong_recall, got.step_auc, got.first_error_f1, got.error_accuracy) == (None, None, None, None)
    assert (got.right_accuracy, got.two_way_accuracy) == (1.0, 1.0)
    neutral = process_metrics([[NEUTRAL]], [[0]], [0])
    assert (neutral.two_way_accuracy, neutral.step_auc, neutral.right_accuracy) == (None, None, 1.0)


def test_resampling_sees_prompts_and_not_the_order_of_solutions():
    rng = np.random.default_rng(0)
    probs = [rng.dirichlet([1, 1, 2], size=rng.integers(1, 6)) for _ in range(60)]
    labels = [rng.choice([-1, 0, 1], size=len(table), p=[0.2, 0.1, 0.7]) for table in probs]
    prompts = np.arange(60) // 2
    one = process_metrics(probs, labels, prompts, seed=4)
    order = rng.permutation(60)
    other = process_metrics([probs[i] for i in order], [labels[i] for i in order], prompts[order], seed=4)
    for name in ProcessMetrics.__slots__:
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12), name
    twice = process_metrics(probs * 2, labels * 2, [*prompts, *prompts], seed=4)
    for name in ("step_accuracy", "first_error_f1", "step_auc"):
        ends = [[getattr(of, name + end) for end in ("_low", "_high")] for of in (one, twice)]
        assert ends[0] == pytest.approx(ends[1], abs=1e-12)
        assert ends[0][0] < ends[0][1]


def test_what_does_not_match_is_refused():
    for probs, labels, prompts, message in (
        ([], [], [], "no solution"),
        ([[RIGHT]], [[1], [1]], [0, 1], "must be as many"),
        ([[RIGHT]], [[1]], [0, 1], "must be as many"),
        ([[RIGHT]], [[1, 1]], [0], r"solution 0 has labels \[2\] but called \[1\]"),
        ([[RIGHT]], [[2]], [0], "neither -1, 0 nor 1"),
        ([[[0.5, 0.5]]], [[1]], [0], r"must be \[S, 3\]"),
        ([[[0.5, 0.5, 1.5]]], [[1]], [0], "outside"),
        ([np.zeros((0, 3))], [[]], [0], "not empty"),
    ):
        with pytest.raises(ValueError, match=message):
            process_metrics(probs, labels, prompts)
