"""The simulation beside the real engine: same groups, same callers or arrivals, forwards measured in the same run.

For `rmray benchmark scaling --validate`. Each run is simulated twice: with the fit of its own forwards, which shows
whether the simulation batches and waits as the engine does, and with the fit of forwards that were measured before,
between and after the runs, which shows whether it foretells a run. Where the two differ, the machine had other work:
`drift` is what a run's own forwards took over what the other fit says.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.engine_runs import Measured, closed_loop, measure_calls, open_loop, run_load
from rmray.benchmark.scaling.figures import batch_tokens_per_s
from rmray.benchmark.scaling.forwards import PACE, Forward, PoolScorer, fit_forwards, one_thread
from rmray.benchmark.scaling.load import Constant, poisson_arrivals
from rmray.benchmark.scaling.records import Deployment
from rmray.benchmark.scaling.simulation import simulate_arrivals, simulate_callers
from rmray.benchmark.shapes import SHAPES
from rmray.benchmark.workloads import Workload, make_groups

WITHIN = 0.15
"""Throughput and median latency of the simulation are to be this near."""
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


def validate(settings: ValidationSettings, *, say: Callable[[str], None] = lambda text: None) -> ValidationReport:
    """Run every case, really and simulated."""
    from rmray.benchmark.report import machine_facts

    with one_thread():
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
    first = fit_forwards(settings.model, measured)
    calls_per_s = batch_tokens_per_s(first, scorer.groups, settings.max_batch_tokens) / np.mean(
        [g.tokens for g in scorer.groups]
    )
    places = range(len(scorer.groups))
    runs: list[tuple[str, Work, Measured, list[Forward]]] = []
    for callers in settings.callers:
        orders = [rng.sample(places, len(places)) for _ in range(callers)]
        real, forwards = run_load(scorer, settings.max_batch_tokens, closed_loop(scorer, orders, settings.run_s))
        measured += scorer.time_forwards(settings.max_batch_tokens, rng)
        runs.append((f"closed loop, {callers} callers", orders, real, forwards))
    for load in settings.loads:
        times = poisson_arrivals(Constant(load * float(calls_per_s)), settings.run_s, rng)
        trace = [(when_s, rng.choice(places)) for when_s in times]
        sent: list[tuple[float, int]] = []  # as the loop came to it: the simulation is asked at the same times
        real, forwards = run_load(scorer, settings.max_batch_tokens, open_loop(scorer, trace, sent))
        measured += scorer.time_forwards(settings.max_batch_tokens, rng)
        runs.append((f"open loop at {load:.0%}", sent, real, forwards))
    cost = fit_forwards(settings.model, measured)
    comparisons = []
    for case, work, real, forwards in runs:
        drift = sum(s for _, _, s in forwards) / sum(cost.seconds(t, p) for t, p, _ in forwards)
        own = _scaled(fit_forwards(settings.model, forwards), forwards)
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
    return measure_calls(outcome.latencies_s, outcome.end_s)


def _scaled(cost: ForwardCost, forwards: Sequence[Forward]) -> ForwardCost:
    """The cost by which these forwards take in all what they took: a fit of relative errors leaves a little."""
    factor = sum(s for _, _, s in forwards) / sum(cost.seconds(t, p) for t, p, _ in forwards)
    return replace(cost, base_s=factor * cost.base_s, token_s=factor * cost.token_s, pair_s=factor * cost.pair_s)
