"""The simulation beside real Ray Serve: replicas whose forwards sleep, called by handle from one process.

For `rmray benchmark scaling --validate --serve`: numbers of replicas that stay, in closed loops and under Poisson
arrivals, and replicas that follow a load step up and back.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from rmray.benchmark.scaling.cluster import served_paced
from rmray.benchmark.scaling.figures import batch_tokens_per_s
from rmray.benchmark.scaling.load import Constant, Group, Profile, Step, measure_groups, poisson_arrivals
from rmray.benchmark.scaling.paced import request_of
from rmray.benchmark.scaling.serve_runs import (
    Trace,
    load_average,
    measure_call_s,
    measure_loop,
    run_callers,
    run_step,
    run_trace,
)
from rmray.benchmark.scaling.serve_validation import (
    REST_S,
    ServeComparison,
    ServeValidationReport,
    ServeValidationSettings,
    StepComparison,
    compare_step,
    simulate_closed,
    simulate_open,
    simulate_step,
)
from rmray.benchmark.scaling.validation import FIGURES
from rmray.benchmark.workloads import make_groups
from rmray.schema import ScoreRequest

CALLED_S = 5.0
"""Of the one caller whose calls say what a call takes."""
VOCAB = 1000

Say = Callable[[str], None]


def validate_serve(settings: ServeValidationSettings, *, say: Say = lambda text: None) -> ServeValidationReport:
    """Run every case on a Ray of our own, and simulate it."""
    from rmray.benchmark.report import machine_facts
    from rmray.benchmark.serve.cluster import cluster

    drawn = make_groups(settings.workload, settings.num_groups, VOCAB, settings.seed)
    groups, requests = measure_groups(drawn), [request_of(group, i) for i, group in enumerate(drawn)]
    rng = random.Random(settings.seed)
    comparisons: list[ServeComparison] = []
    steps: list[StepComparison] = []
    call_s: dict[int, list[float]] = {}
    with cluster():
        for round_ in range(settings.rounds):
            for replicas in settings.replicas:
                took_s, done = _run_fixed(settings, groups, requests, replicas, round_, rng, say)
                call_s.setdefault(replicas, []).append(took_s)
                comparisons += done
            if settings.scaling:
                took_s = statistics.median(s for seconds in call_s.values() for s in seconds)
                steps.append(_run_step(settings, groups, requests, round_, took_s, rng, say))
    facts = machine_facts("cpu")
    medians = {replicas: statistics.median(seconds) for replicas, seconds in call_s.items()}
    return ServeValidationReport(settings, facts, medians, tuple(comparisons), tuple(steps))


def _run_fixed(
    settings: ServeValidationSettings,
    groups: Sequence[Group],
    requests: Sequence[ScoreRequest],
    replicas: int,
    round_: int,
    rng: random.Random,
    say: Say,
) -> tuple[float, list[ServeComparison]]:
    """All cases of so many replicas; what a call took beside its forward, and the comparisons."""
    done: list[ServeComparison] = []
    options = {
        "max_batch_tokens": settings.max_batch_tokens,
        "max_ongoing_requests": settings.max_ongoing_requests,
        "min_replicas": replicas,
        "max_replicas": replicas,
    }
    with served_paced(settings.pace, **options):
        call_s = measure_call_s(requests, groups, settings.pace, CALLED_S)
        for callers in settings.callers:
            real = measure_loop(run_callers(requests, callers, settings.run_s))
            simulated = simulate_closed(settings, groups, replicas, callers, call_s)
            case = f"{replicas} replicas, {callers} callers"
            done.append(ServeComparison(case, round_, real, simulated, load_average()))
            _tell(say, done[-1])
        for load in settings.loads:
            rate = load * replicas * full_calls_per_s(settings, groups)
            trace = _trace(Constant(rate), settings.run_s, groups, rng)
            real = measure_loop(run_trace(requests, trace))
            simulated = simulate_open(settings, [(t, groups[i]) for t, i in trace], replicas, call_s)
            done.append(ServeComparison(f"{replicas} replicas at {load:.0%}", round_, real, simulated, load_average()))
            _tell(say, done[-1])
    return call_s, done


def _run_step(
    settings: ServeValidationSettings,
    groups: Sequence[Group],
    requests: Sequence[ScoreRequest],
    round_: int,
    call_s: float,
    rng: random.Random,
    say: Say,
) -> StepComparison:
    scaling = settings.scaling
    assert scaling is not None
    quiet_s, high_s, after_s = settings.step_s
    rate = settings.step_load * scaling.max_replicas * full_calls_per_s(settings, groups)
    profile = Step(settings.low_per_s, rate, quiet_s, quiet_s + high_s)
    trace = _trace(profile, quiet_s + high_s + after_s, groups, rng)
    options = {name: value for name, value in asdict(scaling).items() if name != "control_s"}
    options |= {"max_batch_tokens": settings.max_batch_tokens, "max_ongoing_requests": settings.max_ongoing_requests}
    run = run_step(requests, settings.pace, trace, rest_s=REST_S, options=options)
    arrivals = [(t, groups[i]) for t, i in trace]
    simulated = simulate_step(settings, scaling, arrivals, call_s, run.starts_s)
    real = (measure_loop(run.calls), run.counts, run.starts_s, run.load_average)
    step = compare_step(settings, scaling, round_, real, simulated)
    _tell(say, step.calls)
    say(f"  starts {[round(s, 1) for s in run.starts_s]} s; lags {step.real_lags_s}, simulated {step.simulated_lags_s}")
    return step


def full_calls_per_s(settings: ServeValidationSettings, groups: Sequence[Group]) -> float:
    """Of a replica whose batches are full."""
    tokens = float(np.mean([group.tokens for group in groups]))
    return batch_tokens_per_s(settings.pace, groups, settings.max_batch_tokens) / tokens


def _trace(profile: Profile, end_s: float, groups: Sequence[Group], rng: random.Random) -> Trace:
    return [(when_s, rng.randrange(len(groups))) for when_s in poisson_arrivals(profile, end_s, rng)]


def _tell(say: Say, comparison: ServeComparison) -> None:
    ratios = ", ".join(f"{name} {comparison.ratio(name):.2f}" for name in FIGURES)
    say(
        f"round {comparison.round + 1}, {comparison.case}: {comparison.real.calls_per_s:.1f} calls/s, "
        f"simulated / real: {ratios}; load average {comparison.load_average:.1f}"
    )
