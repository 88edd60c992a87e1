"""An ensemble of members whose scores are known by arithmetic: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import numpy as np
import pytest

from rmray.models.combine import Combination
from rmray.models.ensemble import EnsembleScorer
from rmray.models.reward import UNNORMALISED, Reference, Unfinished, reference_of_scores
from rmray.models.scorer import ScorerInfo, score_requests
from rmray.result_json import result_from_json, result_to_json
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResult
from rmray.serving.engine import EngineLimits, ScoringEngine
from tests.fakes import ArithmeticScorer

Score = Callable[[str, str], float]


def length(prompt: str, completion: str) -> float:
    return float(len(completion))


def vowels(prompt: str, completion: str) -> float:
    return 10.0 * sum(c in "aeiou" for c in completion)


def scale(mean: float, std: float) -> Reference:
    return Reference("fake-reference", "by hand", mean, std, tuple(np.linspace(-1, 1, 101).tolist()), 2)


def ensemble(
    *scores: Score,
    references: list[Reference] | None = None,
    combination: Combination | None = None,
    reference: Reference = UNNORMALISED,
    unfinished: Unfinished | None = None,
) -> EnsembleScorer:
    return EnsembleScorer(
        [ArithmeticScorer(score, version=f"member-{m}") for m, score in enumerate(scores)],
        references=references or [UNNORMALISED] * len(scores),
        combination=combination or Combination(),
        info=ScorerInfo("three", "ensemble", "version", "fake-reference", "fake-tokenizer", 1000),
        reference=reference,
        unfinished=unfinished or Unfinished(),
    )


def results(scorer: EnsembleScorer, *completions: str, **fields: object) -> list[ScoreResult]:
    [response] = score_requests(scorer, [ScoreRequest(prompt="p", completions=completions, **fields)])
    return list(response.results)


def test_each_member_is_normalised_by_itself_and_what_they_combine_to_once_more() -> None:
    # Of "aabb": length 4 -> (4 - 2) / 2 = 1; vowels 20 -> (20 - 0) / 5 = 4. Of "bb": 0 and 0.
    scorer = ensemble(length, vowels, references=[scale(2.0, 2.0), scale(0.0, 5.0)], reference=scale(0.5, 4.0))
    first, second = results(scorer, "aabb", "bb")
    assert first.member_scores == (1.0, 4.0)
    assert (first.raw, first.reward, first.disagreement) == (2.5, 0.5, 1.5)
    assert second.member_scores == (0.0, 0.0)
    assert (second.raw, second.reward, second.disagreement) == (0.0, -0.125, 0.0)
    assert (first.model_version, first.reference) == ("version", "fake-reference")


@pytest.mark.parametrize(
    ("combination", "raw"),
    [(Combination("mean"), 2.5), (Combination("min"), 1.0), (Combination("mean_minus_std", 2.0), 2.5 - 2 * 1.5)],
)
def test_the_rule_decides_the_raw_score_alone(combination: Combination, raw: float) -> None:
    scorer = ensemble(length, vowels, references=[scale(2.0, 2.0), scale(0.0, 5.0)], combination=combination)
    [result] = results(scorer, "aabb")
    assert result.raw == result.reward == raw
    assert (result.member_scores, result.disagreement) == ((1.0, 4.0), 1.5)


def test_an_ensemble_of_one_is_its_member_up_to_an_affine_map() -> None:
    texts = ["a" * n + "b" * (n % 3) for n in range(1, 12)]
    own = reference_of_scores([length("", t) for t in texts], hash="fake-reference", source="texts")
    rewards = [own.reward(length("", t)) for t in texts]
    # Rewards have mean 0 and std 1 on their reference set, and so do those that are normalised again.
    again = reference_of_scores(rewards, hash="fake-reference", source="texts")
    got = results(ensemble(length, references=[own], reference=again), *texts)
    assert [r.reward for r in got] == pytest.approx(rewards, abs=1e-9)
    assert np.argsort([r.reward for r in got]).tolist() == np.argsort(rewards).tolist()
    assert {r.disagreement for r in got} == {0.0}
    assert [r.quantile for r in got] == pytest.approx([own.quantile(length("", t)) for t in texts], abs=1e-9)


def test_identical_members_never_disagree() -> None:
    got = results(ensemble(*[vowels] * 4, references=[scale(3.0, 7.0)] * 4), "aeiou", "x", "banana")
    assert [r.disagreement for r in got] == [0.0, 0.0, 0.0]
    assert all(len(set(r.member_scores or ())) == 1 for r in got)


def test_a_member_without_a_number_fails_that_completion_alone_and_is_named() -> None:
    def breaks(prompt: str, completion: str) -> float:
        return float("nan") if completion == "bad" else 1.0

    good, bad, blank = results(ensemble(length, breaks), "good", "bad", "")
    assert isinstance(good, ScoreResult)
    assert bad == ScoreFailure(code="non_finite", message="member 1 (version member-1) gave nan")
    assert isinstance(blank, ScoreFailure)
    assert blank.code == "blank_completion"


def test_a_penalty_comes_off_the_reward_once() -> None:
    scorer = ensemble(length, vowels, reference=scale(0.0, 2.0), unfinished=Unfinished("penalty", 0.75))
    whole, cut = results(scorer, "xxxx", "xxxx", finished=(True, False))
    assert (whole.raw, whole.member_scores) == (cut.raw, cut.member_scores)
    assert whole.reward - cut.reward == pytest.approx(0.75)


def test_requests_without_a_path_pass_through_every_batch() -> None:
    scorer = ensemble(length, vowels)
    requests = [ScoreRequest(prompt="p", completions=("",)), ScoreRequest(prompt="p", completions=("ab", "c"))]
    empty, full = score_requests(scorer, requests)
    assert [r.code for r in empty.results] == ["blank_completion"]
    assert [r.raw for r in full.results] == [(2 + 10) / 2, 0.5]


def test_served_answers_carry_the_members() -> None:
    """Through the engine, where requests share batches, and the JSON that goes over HTTP."""
    scorer = ensemble(length, vowels)
    requests = [ScoreRequest(prompt="p", completions=("a" * n, "b", "")) for n in range(1, 6)]

    async def serve() -> list:
        engine = ScoringEngine(scorer, EngineLimits(max_batch_tokens=16))
        engine.start()
        try:
            return await engine.score(requests)
        finally:
            await engine.aclose()

    responses = asyncio.run(serve())
    assert responses == score_requests(scorer, requests)
    for n, response in enumerate(responses, 1):
        first = result_from_json(json.loads(json.dumps(result_to_json(response.results[0]))))
        assert isinstance(first, ScoreResult)
        assert first.member_scores == (float(n), 10.0 * n)
        assert first.disagreement == 4.5 * n
