"""Search over steps, against a model whose scores are known: more beams find what one loses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rmray.client.step_search import NextStep, search_steps
from rmray.errors import RequestError
from rmray.models.scorer import score_requests
from rmray.schema import ItemResult, ScoreFailure, ScoreRequest, ScoreResult, Steps
from tests.fakes import ArithmeticScorer

TREE = {
    (): ["a", "b"],
    ("a",): ["x"],  # looks best at first, and ends badly
    ("b",): ["y"],
}
SCORES = {("a",): 0.9, ("b",): 0.5, ("a", "x"): 0.1, ("b", "y"): 0.8}
RNG = np.random.default_rng(0)


def propose(steps: tuple[str, ...]) -> list[NextStep]:
    return [NextStep(text, is_last=bool(steps)) for text in TREE[steps]]


class Judge:
    """Scores by SCORES; remembers what it was asked."""

    def __init__(self, scores: dict[tuple[str, ...], float] = SCORES) -> None:
        self.scores, self.asked = scores, []

    def __call__(self, request: ScoreRequest) -> Sequence[ItemResult]:
        self.asked.append(request)
        return [self.result(c.texts) for c in request.completions if isinstance(c, Steps)]

    def result(self, steps: tuple[str, ...]) -> ItemResult:
        if steps not in self.scores:
            return ScoreFailure(code="over_length", message="too long")
        raw = self.scores[steps]
        return ScoreResult(raw=raw, reward=raw, quantile=0.5, model_version="v", reference="r", num_tokens=1)


def test_a_wider_beam_keeps_what_pays_later() -> None:
    greedy = search_steps("p", propose, Judge(), width=1, max_steps=2, rng=RNG)
    wide = search_steps("p", propose, Judge(), width=2, max_steps=2, rng=RNG)
    assert (greedy.steps, greedy.score, greedy.num_scored) == (("a", "x"), 0.1, 3)
    assert (wide.steps, wide.score, wide.num_scored) == (("b", "y"), 0.8, 4)


def test_a_rounds_candidates_are_one_request_of_one_prompt() -> None:
    judge = Judge()
    search_steps("p", propose, judge, width=2, max_steps=5, rng=RNG)
    assert [len(request.completions) for request in judge.asked] == [2, 2]
    assert [request.finished for request in judge.asked] == [(False, False), (True, True)]


def test_a_solution_that_ended_stays_while_it_is_among_the_best() -> None:
    tree = {(): [NextStep("short", is_last=True), NextStep("long")], ("long",): [NextStep("end", is_last=True)]}
    scores = {("short",): 0.7, ("long",): 0.9, ("long", "end"): 0.2}
    found = search_steps("p", lambda steps: tree[steps], Judge(scores), width=2, max_steps=3, rng=RNG)
    assert found.steps == ("short",)


def test_equal_scores_are_decided_by_chance_and_not_by_place() -> None:
    flat = dict.fromkeys(SCORES, 0.5)
    firsts = [
        search_steps("p", propose, Judge(flat), width=1, max_steps=2, rng=np.random.default_rng(seed)).steps[0]
        for seed in range(40)
    ]
    assert 8 < firsts.count("a") < 32


def test_a_blank_proposal_is_dropped() -> None:
    scorer = ArithmeticScorer(lambda prompt, completion: float(len(completion)))

    def score(request: ScoreRequest) -> Sequence[ItemResult]:
        return score_requests(scorer, [request])[0].results

    found = search_steps(
        "p", lambda steps: [NextStep("", True), NextStep("ab", True)], score, width=2, max_steps=1, rng=RNG
    )
    assert found.steps == ("ab",)


def test_what_cannot_be_scored_is_dropped_and_nothing_left_is_an_error() -> None:
    some = {steps: score for steps, score in SCORES.items() if steps != ("a",)}
    assert search_steps("p", propose, Judge(some), width=2, max_steps=2, rng=RNG).steps == ("b", "y")
    with pytest.raises(RequestError) as error:
        search_steps("p", propose, Judge({}), width=2, max_steps=2, rng=RNG)
    assert error.value.code == "over_length"
    with pytest.raises(RequestError) as error:
        search_steps("p", propose, Judge(), width=2, max_steps=1, rng=RNG)
    assert error.value.code == "no_solution"
