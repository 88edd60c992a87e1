"""What a result says of a labelled record: probabilities of being right, and what each step is called. Pure.

Called by `log`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rmray.metrics.aggregates import Aggregates, aggregate
from rmray.metrics.process import LABELS, RIGHT, UNTOLD, WRONG, first_error
from rmray.schema import ItemResult, OutcomeExample, ProcessExample, ScoreFailure, ScoreResult

THRESHOLD = 0.5
"""Of a step whose most likely label is not told: right above it, wrong below it."""

LabelledExample = OutcomeExample | ProcessExample


@dataclass(frozen=True, slots=True)
class Answer:
    """aggregates: of the probabilities of the completion's tokens or steps. right_probs, called: of each step, none
    for an outcome. called_error: number of the first step that is called wrong, -1 for none."""

    aggregates: Aggregates
    right_probs: tuple[float, ...] = ()
    called: tuple[int, ...] = ()
    called_error: int = -1


def read_answer(record: LabelledExample, result: ItemResult) -> Answer | ScoreFailure:
    """What the result says of the record; a ScoreFailure where it has no probabilities, or not those of the record."""
    if isinstance(result, ScoreFailure):
        return result
    probs = result.token_scores or ()
    if not all(0 <= p <= 1 for p in probs):  # also where one is NaN
        return ScoreFailure(code="bad_probability", message="a token's or step's score is no probability")
    aggregates = _aggregates(result)
    if aggregates is None:
        return ScoreFailure(code="no_probability", message="the model gives no probability of being right")
    if not all(0 <= p <= 1 for p in aggregates):
        return ScoreFailure(code="bad_probability", message="a probability lies outside 0 and 1")
    if isinstance(record, OutcomeExample):
        return Answer(aggregates)
    return _steps(record, result, aggregates)


def _aggregates(result: ScoreResult) -> Aggregates | None:
    given = (result.prob_mean, result.prob_min, result.prob_product)
    if None not in given:
        return Aggregates(*map(float, given))  # type: ignore[arg-type]
    return aggregate(result.token_scores) if result.token_scores else None


def _steps(record: ProcessExample, result: ScoreResult, aggregates: Aggregates) -> Answer | ScoreFailure:
    probs, num_steps = result.token_scores, len(record.labels)
    if probs is None:
        return ScoreFailure(code="no_probability", message="the model gives no probability of each step")
    called = result.step_labels if result.step_labels is not None else tuple(map(_called, probs))
    if not len(probs) == len(called) == num_steps:
        return ScoreFailure(code="step_count", message=f"{len(probs)} scores for {num_steps} steps")
    if not set(called) <= {*LABELS, UNTOLD}:
        return ScoreFailure(code="bad_label", message="a step is called neither -1, 0 nor 1")
    error = first_error(called) if result.first_error is None else result.first_error
    return Answer(aggregates, tuple(map(float, probs)), called, error)


def _called(prob: float) -> int:
    return UNTOLD if prob == THRESHOLD else RIGHT if prob > THRESHOLD else WRONG
