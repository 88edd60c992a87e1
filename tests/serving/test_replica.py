"""One replica without Serve: a wrong version and a scorer that can't score never start; the health check probes."""

import asyncio
import threading

import pytest

from rmray.errors import BundleError
from rmray.schema import ScoreRequest
from rmray.serving.app.replica import ScorerReplica
from rmray.serving.engine import EngineLimits
from tests.fakes import ArithmeticScorer

REQUEST = ScoreRequest(prompt="p", completions=("a",))


class Flaky(ArithmeticScorer):
    """Fails where `broken(batch)` says so."""

    broken = staticmethod(lambda batch: False)

    def forward(self, batch):
        if self.broken(batch):
            raise FloatingPointError
        return super().forward(batch)


def run(scorer, scenario, version="fake-1"):
    async def main():
        replica = ScorerReplica.__new__(ScorerReplica)
        await replica.__init__(lambda: scorer, version, EngineLimits())
        return await scenario(replica)

    return asyncio.run(main())


def test_scores_and_says_who_it_is():
    async def scenario(replica):
        (response,) = await replica.score([REQUEST], 10.0)
        return response.results[0].raw, (await replica.info()).model_version

    assert run(ArithmeticScorer(), scenario) == (1.0, "fake-1")


def test_calls_are_seen_and_those_whose_caller_went_away_too():
    gate, entered = threading.Event(), threading.Event()

    class Slow(ArithmeticScorer):
        def forward(self, batch):
            if batch[0].request is REQUEST:
                entered.set()
                assert gate.wait(10)
            return super().forward(batch)

    async def scenario(replica):
        replica._observed.take()
        other = ScoreRequest(prompt="p", completions=("a", ""))
        await replica.score([other], 10.0)
        call = asyncio.create_task(replica.score([REQUEST], 10.0))
        await asyncio.to_thread(entered.wait, 10)
        call.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        seen = replica._observed.take()
        assert (len(seen.calls_s), seen.num_requests, seen.num_completions) == (1, 2, 3)
        assert (seen.rewards, seen.failures) == ([1.0], {"blank_completion": 1, "cancelled": 1})

    run(Slow(), scenario)


def test_another_version_never_starts():
    with pytest.raises(BundleError, match="asked for fake-2, loaded fake-1"):
        run(ArithmeticScorer(), None, version="fake-2")


@pytest.mark.parametrize(
    "scorer",
    [
        ArithmeticScorer(lambda prompt, completion: float("nan")),
        type("Broken", (Flaky,), {"broken": staticmethod(lambda batch: True)})(),
    ],
)
def test_a_scorer_that_cannot_score_never_starts(scorer):
    with pytest.raises(BundleError, match="can't score a probe"):
        run(scorer, None)


def test_a_probe_that_is_too_long_says_nothing_of_the_scorer():
    async def scenario(replica):
        return await replica.check_health()

    assert run(ArithmeticScorer(max_length=5), scenario) is None


def test_one_callers_bad_requests_leave_the_replica_healthy():
    scorer = Flaky()

    async def scenario(replica):
        scorer.broken = lambda batch: any(e.request is REQUEST for e in batch)
        for _ in range(5):
            (response,) = await replica.score([REQUEST], 10.0)
            assert response.results[0].code == "forward_failed"
        await replica.check_health()

    run(scorer, scenario)


def test_a_scorer_that_broke_is_unhealthy():
    scorer = Flaky()

    async def scenario(replica):
        await replica.check_health()
        scorer.broken = lambda batch: True
        for _ in range(3):
            await replica.score([REQUEST], 10.0)
        with pytest.raises(BundleError, match="can't score a probe"):
            await replica.check_health()

    run(scorer, scenario)
