"""The simulation beside the real engine: same groups, same callers or arrivals, forwards measured in the same run.

For `rmray benchmark scaling --validate`. Each run is simulated twice: with the fit of its own forwards, which shows
whether the simulation batches and waits as the engine does, and with the fit of forwards that were measured before,
between and after the runs, which shows whether it foretells a run. Where the two differ, the machine had other work:
`drift` is what a run's own forwards took over what the other fit says.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from rmray.benchmark.scaling.cost import ForwardCost, fit_cost
from rmray.benchmark.scaling.figures import batch_tokens_per_s
from rmray.benchmark.scaling.load import Constant, measure_groups, poisson_arrivals
from rmray.benchmark.scaling.simulation import Deployment, simulate_arrivals, simulate_callers
from rmray.benchmark.score_rows import EncodedScorer
from rmray.benchmark.shapes import SHAPES, build_classifier
from rmray.benchmark.workloads import WORKLOADS, Workload, make_groups
from rmray.data.group import TokenGroup
from rmray.errors import ConfigError
from rmray.models.backbone import RewardBackbone
from rmray.models.scorer import Encoded, RawScores
from rmray.schema import ScoreRequest, ScoreResult
from rmray.serving.engine import EngineLimits, ScoringEngine

WITHIN = 0.15
"""Throughput and median latency of the simulation are to be this near."""
FILLS = (0.05, 0.25, 0.5, 1.0)
"""Of max_batch_tokens: the batches whose forwards are measured."""
PACE = ForwardCost("paced", base_s=0.02, token_s=1e-4)
VALIDATION = Workload("validation", 64, 24, 4)
FIGURES = ("calls_per_s", "mean_s", "p50_s", "p99_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSettings:
    """rounds: each runs every case once. run_s: of a case in a round. callers: of the closed loops. loads: of the open
    ones, over what a replica does whose batches are full. A batch is small, so that a short run has many of them.
    paced: forwards sleep for as long as PACE says, which other work on the machine hardly changes."""

    model: str = "5m"
    workload: Workload = VALIDATION
    max_batch_tokens: int = 1024
    callers: tuple[int, ...] = (1, 4, 16)
    loads: tuple[float, ...] = (0.5, 0.8)
    rounds: int = 3
    run_s: float = 10.0
    num_groups: int = 256
    seed: int = 0
    paced: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """What callers saw. num_calls: answered within the run."""

    num_calls: int
    calls_per_s: float
    mean_s: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case of one round. simulated: with the fit of the run's own forwards. foretold: with that of others.

    drift: what the run's own forwards took over what the other fit says."""

    case: str
    round: int
    real: Measured
    simulated: Measured
    foretold: Measured
    drift: float

    def ratio(self, name: str, how: str = "simulated") -> float:
        """Simulated, or foretold, over real."""
        return float(getattr(getattr(self, how), name) / getattr(self.real, name))


@dataclass(frozen=True, slots=True)
class ValidationReport:
    settings: ValidationSettings
    machine: dict[str, Any]
    costs: tuple[ForwardCost, ...]
    comparisons: tuple[Comparison, ...]

    def cases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.case for c in self.comparisons))

    def ratio(self, case: str, name: str, how: str = "simulated") -> float:
        """Simulated, or foretold, over real: the median of the rounds."""
        return statistics.median(c.ratio(name, how) for c in self.comparisons if c.case == case)

    def drift(self, case: str) -> tuple[float, float]:
        """The least and the greatest of the rounds."""
        drifts = [c.drift for c in self.comparisons if c.case == case]
        return min(drifts), max(drifts)

    @property
    def holds(self) -> bool:
        """Whether throughput and median latency are within WITHIN in every case."""
        return all(
            abs(self.ratio(case, name) - 1) <= WITHIN for case in self.cases() for name in ("calls_per_s", "p50_s")
        )

    def to_json(self) -> dict[str, Any]:
        ratios = {
            case: {how: {name: self.ratio(case, name, how) for name in FIGURES} for how in ("simulated", "foretold")}
            for case in self.cases()
        }
        return {"kind": "scaling-validation", "within": WITHIN, "holds": self.holds, "ratios": ratios, **asdict(self)}


Forward = tuple[int, int, float]
"""Tokens, attended pairs and seconds of a forward."""


class PoolScorer(EncodedScorer):
    """Answers requests named by their place among encoded groups, and notes what each forward took.

    pace: forwards sleep for so long instead of computing.
    """

    def __init__(self, model: str, groups: Sequence[TokenGroup], *, pace: ForwardCost | None = None) -> None:
        super().__init__(RewardBackbone(build_classifier(SHAPES[model])), groups, "cpu")
        self.encoded = [replace(e, request=replace(e.request, id=str(i))) for i, e in enumerate(self.encoded)]
        self.groups, self._pace = measure_groups(groups), pace
        self.forwards: list[Forward] = []

    @property
    def requests(self) -> list[ScoreRequest]:
        return [e.request for e in self.encoded]

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        return [self.encoded[int(r.id or 0)] for r in requests]

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        groups = [self.groups[int(e.request.id or 0)] for e in batch]
        tokens, pairs = sum(g.tokens for g in groups), sum(g.pairs for g in groups)
        start_s = time.perf_counter()
        if self._pace:
            time.sleep(self._pace.seconds(tokens, pairs))
            scores = [np.zeros(g.completions) for g in groups]
        else:
            scores = super().forward(batch)
        self.forwards.append((tokens, pairs, time.perf_counter() - start_s))
        return scores

    def time_forwards(self, max_batch_tokens: int, rng: random.Random) -> list[Forward]:
        """One forward of each fill, of groups drawn at random, on a thread as the engine's are."""
        self.forwards = []
        for fill in FILLS:
            batch, total = [rng.randrange(len(self.encoded))], 0
            while (total := sum(self.groups[i].tokens for i in batch)) < fill * max_batch_tokens:
                batch.append(rng.randrange(len(self.encoded)))
            if total > max_batch_tokens and len(batch) > 1:
                batch.pop()
            self.forward([self.encoded[i] for i in batch])
        return self.forwards


def measure_cost(
    scorer: PoolScorer, max_batch_tokens: int, *, rounds: int, rng: random.Random, name: str
) -> ForwardCost:
    """The fit of `rounds` forwards of each fill, after one that does not count."""
    scorer.time_forwards(max_batch_tokens, rng)
    return _fit(name, [f for _ in range(rounds) for f in scorer.time_forwards(max_batch_tokens, rng)])


def _fit(name: str, forwards: Sequence[Forward]) -> ForwardCost:
    tokens, pairs, seconds = zip(*forwards, strict=True)
    return fit_cost(name, tokens, pairs, seconds, note=f"{len(forwards)} forwards on this machine")


def measure_here(model: str, workload: str, max_batch_tokens: int, *, rounds: int = 3) -> ForwardCost:
    """What forwards of a workload take on one thread of this machine."""
    with _one_thread():
        scorer = PoolScorer(model, make_groups(WORKLOADS[workload], 64, SHAPES[model].vocab_size))
        rng = random.Random(0)
        return measure_cost(scorer, max_batch_tokens, rounds=rounds, rng=rng, name=f"{model} on this machine")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Of torch, as a replica of one CPU has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def validate(settings: ValidationSettings, *, say: Callable[[str], None] = lambda text: None) -> ValidationReport:
    """Run every case, really and simulated."""
    from rmray.benchmark.report import machine_facts

    with _one_thread():
        vocab = SHAPES[settings.model].vocab_size
        groups = make_groups(settings.workload, settings.num_groups, vocab, settings.seed)
        scorer = PoolScorer(settings.model, groups, pace=PACE if settings.paced else None)
        rng = random.Random(settings.seed)
        scorer.time_forwards(settings.max_batch_tokens, rng)
        costs, comparisons = [], []
        for round_ in range(settings.rounds):
            cost, done = _run_round(scorer, settings, round_, rng, say)
            costs.append(cost)
            comparisons += done
        return ValidationReport(settings, machine_facts("cpu"), tuple(costs), tuple(comparisons))


def _run_round(
    scorer: PoolScorer, settings: ValidationSettings, round_: int, rng: random.Random, say: Callable[[str], None]
) -> tuple[ForwardCost, list[Comparison]]:
    """All cases once, forwards measured before and after each; then their simulations."""
    measured = scorer.time_forwards(settings.max_batch_tokens, rng)
    first = _fit(settings.model, measured)
    calls_per_s = batch_tokens_per_s(first, scorer.groups, settings.max_batch_tokens) / np.mean(
        [g.tokens for g in scorer.groups]
    )
    places = range(len(scorer.groups))
    runs: list[tuple[str, Work, Measured, list[Forward]]] = []
    for callers in settings.callers:
        orders = [rng.sample(places, len(places)) for _ in range(callers)]
        real, forwards = _run(scorer, settings, _closed_loop(scorer, orders, settings.run_s))
        measured += scorer.time_forwards(settings.max_batch_tokens, rng)
        runs.append((f"closed loop, {callers} callers", orders, real, forwards))
    for load in settings.loads:
        times = poisson_arrivals(Constant(load * float(calls_per_s)), settings.run_s, rng)
        trace = [(when_s, rng.choice(places)) for when_s in times]
        sent: list[tuple[float, int]] = []  # as the loop came to it: the simulation is asked at the same times
        real, forwards = _run(scorer, settings, _open_loop(scorer, trace, sent))
        measured += scorer.time_forwards(settings.max_batch_tokens, rng)
        runs.append((f"open loop at {load:.0%}", sent, real, forwards))
    cost = _fit(settings.model, measured)
    comparisons = []
    for case, work, real, forwards in runs:
        drift = sum(s for _, _, s in forwards) / sum(cost.seconds(t, p) for t, p, _ in forwards)
        own = _scaled(_fit(settings.model, forwards), forwards)
        comparison = Comparison(
            case, round_, real, _simulate(work, scorer, settings, own), _simulate(work, scorer, settings, cost), drift
        )
        comparisons.append(comparison)
        ratios = ", ".join(f"{name} {comparison.ratio(name):.2f}" for name in FIGURES)
        say(
            f"round {round_ + 1}, {case}: {real.calls_per_s:.1f} calls/s, simulated / real: {ratios}; drift {drift:.2f}"
        )
    return cost, comparisons


Work = list[list[int]] | list[tuple[float, int]]
"""Groups in the order of each caller, or arrivals: time and group."""


def _simulate(work: Work, scorer: PoolScorer, settings: ValidationSettings, cost: ForwardCost) -> Measured:
    deployment = Deployment(
        cost=cost,
        max_batch_tokens=settings.max_batch_tokens,
        max_ongoing_requests=10**6,
        max_queued_tokens=10**9,
        call_s=0.0,
    )
    groups = scorer.groups
    if work and isinstance(work[0], list):
        orders = [[groups[i] for i in order] for order in work]
        outcome = simulate_callers(deployment, orders, end_s=settings.run_s, seed=settings.seed)
    else:
        outcome = simulate_arrivals(deployment, [(t, groups[i]) for t, i in work], seed=settings.seed)
    return _measured(outcome.latencies_s, outcome.end_s)


def _scaled(cost: ForwardCost, forwards: Sequence[Forward]) -> ForwardCost:
    """The cost by which these forwards take in all what they took: a fit of relative errors leaves a little."""
    factor = sum(s for _, _, s in forwards) / sum(cost.seconds(t, p) for t, p, _ in forwards)
    return replace(cost, base_s=factor * cost.base_s, token_s=factor * cost.token_s, pair_s=factor * cost.pair_s)


def _measured(latencies_s: Sequence[float], took_s: float) -> Measured:
    if not latencies_s:
        raise ConfigError("no call was answered within a run", where="--run-s", next_step="raise it")
    p50_s, p99_s = np.percentile(latencies_s, [50, 99]).tolist()
    return Measured(len(latencies_s), len(latencies_s) / took_s, float(np.mean(latencies_s)), p50_s, p99_s)


Load = Callable[[ScoringEngine], Any]


def _run(scorer: PoolScorer, settings: ValidationSettings, load: Load) -> tuple[Measured, list[Forward]]:
    """A load against a new engine in this process; what its callers saw, and its forwards."""
    scorer.forwards = []

    async def main() -> tuple[list[float], float]:
        engine = ScoringEngine(scorer, EngineLimits(settings.max_batch_tokens, 10**9))
        engine.start()
        try:
            start_s = time.perf_counter()
            latencies_s: list[float] = await load(engine)
            return latencies_s, time.perf_counter() - start_s
        finally:
            await engine.aclose()

    latencies_s, took_s = asyncio.run(main())
    return _measured(latencies_s, took_s), scorer.forwards


async def _ask(engine: ScoringEngine, request: ScoreRequest) -> float:
    start_s = time.perf_counter()
    (response,) = await engine.score([request])
    if not all(isinstance(result, ScoreResult) for result in response.results):
        raise RuntimeError(f"a completion of the benchmark has no score: {response.results}")
    return time.perf_counter() - start_s


def _closed_loop(scorer: PoolScorer, orders: Sequence[Sequence[int]], run_s: float) -> Load:
    """Callers that ask again as soon as they are answered, until the time is over."""
    requests = scorer.requests

    async def load(engine: ScoringEngine) -> list[float]:
        latencies_s: list[float] = []

        async def caller(order: Sequence[int]) -> None:
            while True:
                for i in order:
                    latencies_s.append(await _ask(engine, requests[i]))

        tasks = [asyncio.create_task(caller(order)) for order in orders]
        await asyncio.wait(tasks, timeout=run_s)
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        return latencies_s

    return load


def _open_loop(scorer: PoolScorer, trace: Sequence[tuple[float, int]], sent: list[tuple[float, int]]) -> Load:
    """Calls at the times of the trace, whoever waits; `sent` gets the times at which they were really made."""
    requests = scorer.requests

    async def load(engine: ScoringEngine) -> list[float]:
        start_s, tasks = time.perf_counter(), []
        for when_s, i in trace:
            await asyncio.sleep(max(0.0, start_s + when_s - time.perf_counter()))
            sent.append((time.perf_counter() - start_s, i))
            tasks.append(asyncio.create_task(_ask(engine, requests[i])))
        return await asyncio.gather(*tasks)

    return load
