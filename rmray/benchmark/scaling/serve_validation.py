"""The simulation of what ran on real Ray Serve: settings, records, and how far it is off. Called by `serve_compare`.

The simulation is told what a call takes beside its forward, measured of one caller before, and how long replicas took
to start, measured in the run that it is beside.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rmray.benchmark.scaling.autoscaler import ScalingSettings
from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.engine_runs import Measured, measure_calls
from rmray.benchmark.scaling.load import Group
from rmray.benchmark.scaling.records import Deployment
from rmray.benchmark.scaling.simulation import simulate_arrivals, simulate_callers
from rmray.benchmark.scaling.starts import Counts, counts_of, replica_seconds, seconds_to
from rmray.benchmark.scaling.validation import FIGURES, VALIDATION, WITHIN
from rmray.benchmark.workloads import Workload

SLOW_PACE = ForwardCost("paced", base_s=0.05, token_s=2.5e-4)
"""Of a full batch 0.3 s, so that calls, which take some ms of CPU, are few."""
SHORT_DELAYS = ScalingSettings(
    max_replicas=4,
    target_tokens=256,
    upscale_delay_s=2.0,
    downscale_delay_s=5.0,
    metrics_interval_s=1.0,
    control_s=0.1,
)
WARM_S, SIMULATED_S = 10.0, 300.0
"""Of a closed loop that is simulated: it costs next to nothing, and a shorter one is more luck."""
SEEDS = 8
"""Of each simulation of arrivals: the same arrivals, other draws."""
LOOK_S = 0.1
LOADS_S = (10.0, 45.0, 25.0)
"""Seconds of little load, of much, and of little again."""
REST_S = 2.0
"""After the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeValidationSettings:
    """rounds: each runs every case once. run_s: of a case in a round. replicas, callers: of the closed loops. loads: of
    the open ones, over what the replicas do whose batches are full. step_load: of the load step, over what the most
    replicas do; low_per_s: calls before and after it. max_ongoing_requests: as shipped; how calls wait in Serve's
    handles is not simulated well."""

    workload: Workload = VALIDATION
    pace: ForwardCost = SLOW_PACE
    max_batch_tokens: int = 1024
    max_ongoing_requests: int = 4096
    replicas: tuple[int, ...] = (2, 4)
    callers: tuple[int, ...] = (4, 16, 64)
    loads: tuple[float, ...] = (0.5, 0.8)
    scaling: ScalingSettings | None = SHORT_DELAYS
    step_load: float = 0.5
    low_per_s: float = 2.0
    step_s: tuple[float, float, float] = LOADS_S
    rounds: int = 2
    run_s: float = 15.0
    num_groups: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ServeComparison:
    """One case of one round. load_average: of the machine during the real run."""

    case: str
    round: int
    real: Measured
    simulated: Measured
    load_average: float

    def ratio(self, name: str) -> float:
        """Simulated over real."""
        return float(getattr(self.simulated, name) / getattr(self.real, name))


@dataclass(frozen=True, slots=True)
class StepComparison:
    """The load step of one round. *_counts: running replicas over time, of the simulation in its median run. *_lags_s:
    from the step to each number of replicas, and from its end back to each. starts_s: of the real replicas."""

    round: int
    calls: ServeComparison
    starts_s: tuple[float, ...]
    real_counts: Counts
    simulated_counts: Counts
    real_lags_s: dict[str, float | None]
    simulated_lags_s: dict[str, float | None]
    real_replica_s: float
    simulated_replica_s: float


@dataclass(frozen=True, slots=True)
class ServeValidationReport:
    """call_s: beside the forward, of one caller, for each number of replicas; the median of the rounds."""

    settings: ServeValidationSettings
    machine: dict[str, Any]
    call_s: dict[int, float]
    comparisons: tuple[ServeComparison, ...]
    steps: tuple[StepComparison, ...] = field(default=())

    def cases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.case for c in self.comparisons))

    def ratio(self, case: str, name: str) -> float:
        """Simulated over real: the median of the rounds."""
        return statistics.median(c.ratio(name) for c in self.comparisons if c.case == case)

    @property
    def holds(self) -> bool:
        """Whether throughput and median latency are within WITHIN in every case."""
        return all(
            abs(self.ratio(case, name) - 1) <= WITHIN for case in self.cases() for name in ("calls_per_s", "p50_s")
        )

    def to_json(self) -> dict[str, Any]:
        ratios = {case: {name: self.ratio(case, name) for name in FIGURES} for case in self.cases()}
        return {
            "kind": "scaling-validation-serve",
            "within": WITHIN,
            "holds": self.holds,
            "ratios": ratios,
            **asdict(self),
        }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known and len(known) == len(values) else None


def simulate_closed(
    settings: ServeValidationSettings, groups: Sequence[Group], replicas: int, callers: int, call_s: float
) -> Measured:
    """Callers that share a handle, each with the groups in an order of its own."""
    rng = random.Random(settings.seed)
    orders = [rng.sample(groups, len(groups)) for _ in range(callers)]
    deployment = _deployment(settings, call_s, replicas=replicas)
    outcome = simulate_callers(deployment, orders, end_s=WARM_S + SIMULATED_S, seed=settings.seed)
    calls = zip(outcome.sent_s, outcome.latencies_s, strict=True)
    return measure_calls([took_s for sent_s, took_s in calls if sent_s + took_s > WARM_S], SIMULATED_S)


def simulate_open(
    settings: ServeValidationSettings, arrivals: Sequence[tuple[float, Group]], replicas: int, call_s: float
) -> Measured:
    """The same arrivals, with the draws of several seeds."""
    deployment = _deployment(settings, call_s, replicas=replicas)
    outcomes = [simulate_arrivals(deployment, arrivals, seed=seed) for seed in range(SEEDS)]
    latencies_s = [took_s for outcome in outcomes for took_s in outcome.latencies_s]
    return measure_calls(latencies_s, sum(outcome.end_s for outcome in outcomes))


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """A load step of the simulation. counts: running replicas over time."""

    calls: Measured
    counts: Counts


def simulate_step(
    settings: ServeValidationSettings,
    scaling: ScalingSettings,
    arrivals: Sequence[tuple[float, Group]],
    call_s: float,
    starts_s: tuple[float, ...],
) -> list[SimulatedStep]:
    """The same arrivals with the draws of several seeds, and as many phases of the reports to the load."""
    deployment = _deployment(
        settings,
        call_s,
        scaling=scaling,
        starts_s=starts_s,
        replicas=scaling.min_replicas,
    )
    runs = []
    for seed in range(SEEDS):
        late_s = scaling.metrics_interval_s * seed / SEEDS
        moved = [(when_s + late_s, group) for when_s, group in arrivals]
        outcome = simulate_arrivals(deployment, moved, rest_s=REST_S, look_s=LOOK_S, seed=seed)
        counts = counts_of([(look.now_s - late_s, look.running) for look in outcome.looks])
        runs.append(SimulatedStep(measure_calls(outcome.latencies_s, outcome.end_s - late_s - REST_S), counts))
    return runs


def lags_s(settings: ServeValidationSettings, scaling: ScalingSettings, counts: Counts) -> dict[str, float | None]:
    """Seconds from the step to each number of replicas, and from its end back to each."""
    quiet_s, high_s, after_s = settings.step_s
    ends_s = quiet_s + high_s
    up = {
        f"to {n}": seconds_to(counts, n, from_s=quiet_s, until_s=ends_s)
        for n in range(scaling.min_replicas + 1, scaling.max_replicas + 1)
    }
    down = {
        f"back to {n}": seconds_to(counts, n, from_s=ends_s, until_s=ends_s + after_s + REST_S, falling=True)
        for n in range(scaling.max_replicas - 1, scaling.min_replicas - 1, -1)
    }
    return up | down


def compare_step(
    settings: ServeValidationSettings,
    scaling: ScalingSettings,
    round_: int,
    real: tuple[Measured, Counts, tuple[float, ...], float],
    simulated: Sequence[SimulatedStep],
) -> StepComparison:
    """Medians over the simulated runs. real: what callers saw, counts, seconds of starts, load average."""
    measured, counts, starts_s, load_average = real
    calls = Measured(*(statistics.median(getattr(s.calls, name) for s in simulated) for name in Measured.__slots__))
    lags = [lags_s(settings, scaling, s.counts) for s in simulated]
    end_s = sum(settings.step_s)
    seconds = [replica_seconds(s.counts, end_s=end_s) for s in simulated]
    middle = sorted(range(len(simulated)), key=seconds.__getitem__)[len(simulated) // 2]
    return StepComparison(
        round_,
        ServeComparison("load step", round_, measured, calls, load_average),
        starts_s,
        counts,
        simulated[middle].counts,
        lags_s(settings, scaling, counts),
        {name: _median([each[name] for each in lags]) for name in lags[0]},
        replica_seconds(counts, end_s=end_s),
        statistics.median(seconds),
    )


def _deployment(settings: ServeValidationSettings, call_s: float, **fields: Any) -> Deployment:
    return Deployment(
        cost=settings.pace,
        max_batch_tokens=settings.max_batch_tokens,
        max_ongoing_requests=settings.max_ongoing_requests,
        call_s=call_s,
        **fields,
    )
