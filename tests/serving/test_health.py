"""The check of a replica: before what waits, after the forward that runs, and never a fault of being busy."""

import asyncio
import threading

import pytest

from rmray.errors import BundleError
from rmray.schema import ScoreRequest
from rmray.serving.app import health
from rmray.serving.app.health import HealthWatch
from rmray.serving.engine import EngineLimits, ScoringEngine
from tests.fakes import ArithmeticScorer


class Held(ArithmeticScorer):
    """Says when a forward has begun, and holds it until it is let go."""

    def __init__(self):
        super().__init__()
        self.begun, self.go, self.done = threading.Event(), threading.Event(), []

    def forward(self, batch):
        self.begun.set()
        assert self.go.wait(20)
        self.done.append(batch[0].request.completions[0])
        return super().forward(batch)


def run(scorer, scenario, limits=None):
    async def main():
        engine = ScoringEngine(scorer, limits)
        engine.start()
        try:
            return await scenario(engine)
        finally:
            engine.stop()

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Every check that can end does so within a look, however slow the machine."""
    monkeypatch.setattr(health, "SHORT_S", 30.0)


@pytest.fixture
def no_patience(patience, monkeypatch):
    monkeypatch.setattr(health, "SHORT_S", 0.01)


@pytest.mark.usefixtures("no_patience")
def test_a_busy_replica_is_healthy_and_its_check_comes_before_all_that_wait():
    scorer = Held()

    async def scenario(engine):
        watch = HealthWatch(engine, lambda: scorer.done.append("check"), every_s=0.0)
        calls = [asyncio.create_task(engine.score([ScoreRequest(prompt="p", completions=("a" * 90,))]))]
        assert await asyncio.to_thread(scorer.begun.wait, 20)
        # The queue is full: another call would be refused.
        calls += [asyncio.create_task(engine.score([ScoreRequest(prompt="p", completions=(c,))])) for c in ("b", "c")]
        for _ in range(3):
            await watch.look()
        assert scorer.done == []
        scorer.go.set()
        await asyncio.gather(*calls)
        await watch.look()

    run(scorer, scenario, EngineLimits(max_batch_tokens=1, max_queued_tokens=95))
    assert scorer.done[:3] == ["a" * 90, "check", "b"]


def test_wrong_scores_end_the_replica_at_once():
    ended = []

    def check():
        raise BundleError("the goldens score differently here")

    async def scenario(engine):
        watch = HealthWatch(engine, check, every_s=0.0, give_up=lambda: ended.append(True))
        with pytest.raises(BundleError, match="score differently"):
            await watch.look()

    run(ArithmeticScorer(), scenario)
    assert ended == [True]


def test_a_check_that_cannot_be_made_is_a_fault_until_it_can():
    faults, ended = [MemoryError(), None], []

    def check():
        if (fault := faults.pop(0)) is not None:
            raise fault

    async def scenario(engine):
        watch = HealthWatch(engine, check, every_s=1e9, give_up=lambda: ended.append(True))
        await watch.look()
        assert len(faults) == 2, "nothing is due"
        watch._last_s = -1e9
        with pytest.raises(MemoryError):
            await watch.look()
        await watch.look()

    run(ArithmeticScorer(), scenario)
    assert faults == []
    assert ended == [], "its scores are not wrong"


def test_a_scorer_without_goldens_is_probed_only_while_nothing_shows_that_it_scores(monkeypatch):
    probed = []
    monkeypatch.setattr(health, "probe", lambda scorer: probed.append(scorer))

    async def scenario(engine):
        watch = HealthWatch(engine, None, every_s=0.0)
        await engine.score([ScoreRequest(prompt="p", completions=("a",))])
        await watch.look()
        assert probed == []
        watch._seen_batches = engine.stats.num_batches
        await watch.look()

    scorer = ArithmeticScorer()
    run(scorer, scenario)
    assert probed == [scorer]


@pytest.mark.usefixtures("no_patience")
def test_a_forward_that_never_ends_is_a_fault():
    scorer, now = Held(), [0.0]

    async def scenario(engine):
        watch = HealthWatch(engine, lambda: None, every_s=60.0, clock=lambda: now[0])
        call = asyncio.create_task(engine.score([ScoreRequest(prompt="p", completions=("a",))]))
        assert await asyncio.to_thread(scorer.begun.wait, 20)
        try:
            for now[0] in (61.0, 61.0 + health.HUNG_S):
                await watch.look()
            now[0] += 1.0
            with pytest.raises(RuntimeError, match="a check has waited 601 s"):
                await watch.look()
        finally:
            scorer.go.set()
        await call
        await asyncio.wait({watch._running} if watch._running else {call})
        await watch.look()

    run(scorer, scenario)
