"""What a replica sees: sums between two looks, tokens of real batches, and labels that cannot grow without end."""

import asyncio

import numpy as np
import pytest

from rmray.data.group import TokenGroup
from rmray.models.scorer import Encoded, ForwardTokens
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse
from rmray.serving.engine import ScoringEngine
from rmray.serving.observed import MAX_CODES, Observed, Seen, seen_batch
from tests.fakes import ArithmeticScorer
from tests.serving.test_engine import GatedScorer, request, until


def encoded(prefix, *suffixes):
    group = TokenGroup(np.zeros(prefix, np.int32), tuple(np.zeros(n, np.int32) for n in suffixes), (0,) * len(suffixes))
    one = ScoreRequest(prompt="p", completions=("c",) * len(suffixes))
    return Encoded(one, group, tuple(range(len(suffixes))), (False,) * len(suffixes))


def test_tokens_asked_are_those_of_whole_paths_and_computed_those_that_the_scorer_tells():
    batch = [encoded(10, 1, 2, 3), encoded(0, 5)]
    told = seen_batch(batch, ForwardTokens(30, 4), forward_s=0.5, oldest_wait_s=0.1)
    assert told.queued_tokens == sum(e.num_tokens for e in batch) == 10 + 6 + 5, (
        "by the queue's measure, not the model's"
    )
    assert (told.asked_tokens, told.computed_tokens, told.padding_tokens) == (3 * 10 + 6 + 5, 30, 4)
    assert seen_batch(batch, None, forward_s=0.5, oldest_wait_s=0.1).computed_tokens == 10 + 6 + 5


def answered(*rewards_or_codes, unfinished=0):
    scorer = ArithmeticScorer()
    results = tuple(
        ScoreFailure(code=x, message="") if isinstance(x, str) else scorer._result(0, np.array([x]))
        for x in rewards_or_codes
    )
    count = len(results)
    finished = (False,) * unfinished + (True,) * (count - unfinished)
    return ScoreRequest(prompt="p", completions=("c",) * count, finished=finished), ScoreResponse(results=results)


def test_calls_are_summed_until_somebody_looks():
    observed = Observed()
    one, two = answered(1.0, "over_length", 2.0, unfinished=2), answered("over_length")
    observed.call([one[0], two[0]], [one[1], two[1]], 0.25)
    observed.cancelled([one[0]])
    seen = observed.take()
    assert (seen.calls_s, seen.num_requests, seen.num_completions, seen.num_unfinished) == ([0.25], 3, 7, 4)
    assert (seen.failures, seen.rewards) == ({"over_length": 2, "cancelled": 3}, [1.0, 2.0])
    assert observed.take() == Seen()


def test_a_call_that_is_turned_away_is_no_measure_of_how_long_calls_take():
    observed = Observed()
    for took_s, results in ((0.1, ("overloaded",)), (0.2, ("overloaded", 1.0)), (0.3, ("over_length",))):
        request, response = answered(*results)
        observed.call([request], [response], took_s)
    seen = observed.take()
    assert (seen.calls_s, seen.failures["overloaded"]) == ([0.2, 0.3], 2)


def test_codes_without_end_become_other():
    observed = Observed()
    for i in range(MAX_CODES + 5):
        observed.call(*([x] for x in answered(f"code{i}")), 0.0)
    observed.call(*([x] for x in answered("code0")), 0.0)
    failures = observed.take().failures
    assert (len(failures), failures["other"], failures["code0"]) == (MAX_CODES + 1, 5, 2)


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def test_the_engine_tells_of_each_forward_and_how_long_its_oldest_waited():
    scorer, observed, clock = GatedScorer(), Observed(), Clock()

    async def main():
        engine = ScoringEngine(scorer, clock=clock, observer=observed)
        engine.start()
        first = asyncio.create_task(engine.score([request("first")]))
        await scorer.until_forward()
        second = asyncio.create_task(engine.score([request("second")]))
        await until(lambda: engine.num_waiting == 1)
        clock.now_s = 2.0
        third = asyncio.create_task(engine.score([request("third")]))
        await until(lambda: engine.num_waiting == 2)
        clock.now_s = 3.0
        scorer.gate.set()
        await asyncio.gather(first, second, third)
        await engine.aclose()

    asyncio.run(main())
    one, two = observed.take().batches
    assert (one.num_requests, one.oldest_wait_s, two.num_requests, two.oldest_wait_s) == (1, 0.0, 2, 3.0)
    # Prompt "p" before "a" and "bb": two paths of 2 and 3 tokens, the prompt computed once.
    assert (one.asked_tokens, one.computed_tokens, one.padding_tokens) == (5, 4, 0)
    assert one.forward_s > 0


def test_a_forward_that_fails_in_part_is_not_told_by_its_last_piece():
    class Fails(ArithmeticScorer):
        last_forward = ForwardTokens(1)

        def forward(self, batch):
            if any(e.request.id == "bad" for e in batch):
                raise ValueError
            return super().forward(batch)

    observed = Observed()

    async def main():
        engine = ScoringEngine(Fails(), observer=observed)
        engine.start()
        await engine.score([request("bad"), request("good")])
        await engine.aclose()

    asyncio.run(main())
    assert [b.computed_tokens for b in observed.take().batches] == [8]


@pytest.mark.parametrize("unfinished", [0, 2])
def test_unfinished_completions_are_counted(unfinished):
    observed = Observed()
    observed.call(*([x] for x in answered(1.0, 2.0, 3.0, unfinished=unfinished)), 0.0)
    assert observed.take().num_unfinished == unfinished
