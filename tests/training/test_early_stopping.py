"""Patience runs out after so many evaluations that are no better, also across a resume, and never otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from rmray.training.early_stopping import StopEarly
from rmray.training.loop import Progress
from tests.training.curves import step_result

NO_ENGINE: Any = None
EVERY = 10


@dataclass
class Evaluations:
    latest: dict[str, float] = field(default_factory=dict)
    latest_step: int | None = None


def stopped_at(accuracies: Sequence[float], patience: int, resume_at: int | None = None) -> int | None:
    """Number of the evaluation that ended a run of one every ten steps; None where none did.

    resume_at: a step before which the run is cut, and goes on from what was remembered, with or without the figures.
    """
    evaluations = Evaluations()
    stop = StopEarly(evaluations, patience)
    for step in range(len(accuracies) * EVERY):
        if step == resume_at:
            evaluations = Evaluations()
            stop = StopEarly(evaluations, patience, json.loads(json.dumps(stop.memory())))
        progress = Progress(step_result(step), 1.0, is_last=False)
        if (step + 1) % EVERY == 0:
            evaluations.latest, evaluations.latest_step = {"eval_accuracy": accuracies[step // EVERY]}, step
        stop(NO_ENGINE, progress)
        if progress.is_last:
            assert (step + 1) % EVERY == 0
            return step // EVERY
    return None


@pytest.mark.parametrize(
    ("accuracies", "patience", "stops"),
    [
        ([0.5, 0.6, 0.7, 0.8], 1, None),
        ([0.5, 0.6, 0.55, 0.8], 1, 2),
        ([0.5, 0.6, 0.55, 0.8, 0.7, 0.7], 2, 5),
        ([0.5, 0.6, 0.55, 0.61, 0.6, 0.6, 0.6], 3, 6),
        ([0.5, 0.6, 0.59, 0.59, 0.595, 0.9], 3, 4),  # better than the one before, not than the best
        ([0.5, 0.4], 2, None),
    ],
)
def test_it_stops_at_the_last_of_so_many_in_a_row_without_a_better_one(
    accuracies: list[float], patience: int, stops: int | None
) -> None:
    assert stopped_at(accuracies, patience) == stops


def test_a_tie_is_no_better() -> None:
    assert stopped_at([0.7, 0.7, 0.7], 2) == 2
    assert stopped_at([0.7, 0.7, 0.7000001, 0.7], 2) is None


@pytest.mark.parametrize("resume_at", [5, 10, 15, 29, 30, 31, 45, 49])
def test_a_resumed_run_stops_where_the_run_left_alone_stops(resume_at: int) -> None:
    accuracies = [0.5, 0.6, 0.6, 0.59, 0.6, 0.9]
    assert stopped_at(accuracies, 3) == stopped_at(accuracies, 3, resume_at=resume_at) == 4


def test_figures_taken_up_from_a_checkpoint_are_not_counted_again() -> None:
    evaluations = Evaluations({"eval_accuracy": 0.5}, 9)
    stop = StopEarly(evaluations, 1)
    progress = Progress(step_result(9), 1.0, is_last=False)
    stop(NO_ENGINE, progress)
    resumed = StopEarly(evaluations, 1, json.loads(json.dumps(stop.memory())))
    for step in range(10, 15):
        progress = Progress(step_result(step), 1.0, is_last=False)
        resumed(NO_ENGINE, progress)
        assert not progress.is_last
    assert (resumed.best_accuracy, resumed.best_step, resumed.without_better) == (0.5, 9, 0)


def test_without_held_out_pairs_it_never_stops_and_a_last_step_stays_last() -> None:
    stop = StopEarly(Evaluations(), 1)
    for step in range(50):
        progress = Progress(step_result(step), 1.0, is_last=step == 49)
        stop(NO_ENGINE, progress)
        assert progress.is_last == (step == 49)


def test_a_patience_of_none_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        StopEarly(Evaluations(), 0)
