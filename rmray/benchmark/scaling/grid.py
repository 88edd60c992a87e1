"""Settings of the autoscaler beside each other, under a step, a sine and a burst, and which come out best.

For `rmray benchmark scaling`. First the targets with delays of scaling down, then, around the best of these, everything
else in turn.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from rmray.benchmark.scaling.autoscaler import ScalingSettings
from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.figures import Figures, batch_tokens_per_s, summarise
from rmray.benchmark.scaling.load import Burst, Group, Profile, Sine, Step
from rmray.benchmark.scaling.records import Actors, Deployment, Look
from rmray.benchmark.scaling.simulation import simulate_actors

PEAK_SHARE = 0.75
"""The highest load takes this share of the most replicas, with all of them busy all the time."""
WARM_S, COUNTED_S = 300.0, 1200.0
WITHIN = 1.5
"""Settings are as good as the best whose p99 is within this factor of it, under every load."""
THROUGHPUT_WITHIN = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is compared; the defaults are those of `config.serve.ServeOptions`. target_batches: target_tokens over
    max_batch_tokens."""

    target_batches: float = 0.25
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 600.0
    max_ongoing_requests: int = 4096
    metrics_interval_s: float = 2.0


TARGETS = (0.25, 0.5, 1.0, 2.0, 4.0)
DOWNSCALE_DELAYS_S = (120.0, 600.0)
AROUND: Mapping[str, Sequence[Any]] = {
    "upscale_delay_s": (0.0, 30.0),
    "downscale_delay_s": (60.0, 300.0),
    "max_ongoing_requests": (16, 32, 64),
    "metrics_interval_s": (10.0,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSettings:
    """num_actors: at the highest load. start_s: of a replica. seed: of everything that is drawn."""

    num_actors: int = 1000
    groups_per_step: int = 8
    min_replicas: int = 1
    max_replicas: int = 64
    max_batch_tokens: int = 16384
    start_s: float = 60.0
    timeout_s: float = 300.0
    warm_s: float = WARM_S
    counted_s: float = COUNTED_S
    seed: int = 0

    def loads(self) -> dict[str, Profile]:
        """Active actors over time."""
        low, high, warm_s = self.num_actors / 5, float(self.num_actors), self.warm_s
        return {
            "step": Step(low, high, warm_s + self.counted_s / 10, warm_s + self.counted_s / 2),
            "sine": Sine(low / 2, high, self.counted_s / 2),
            "burst": Burst(low, high, self.counted_s / 4, self.counted_s / 20),
        }


@dataclass(frozen=True, slots=True)
class GridCell:
    """One policy under one load. looks: the state over time, second by second."""

    policy: Policy
    load: str
    figures: Figures
    looks: tuple[Look, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One policy under all loads. p99_ratio: over the least of any policy, under the load where it is worst.

    cost_ratio: replica-seconds for a completion over the least, on average over loads. sound: p99 and throughput are
    near the best, and no call went without a score."""

    policy: Policy
    p99_ratio: float
    cost_ratio: float
    sound: bool


@dataclass(frozen=True, slots=True)
class GridReport:
    """generate_s: of an actor between two steps, on average, so that the highest load takes `needed` replicas."""

    settings: GridSettings
    cost: ForwardCost
    workload: str
    mean_tokens: float
    tokens_per_s: float
    generate_s: float
    needed: int
    cells: tuple[GridCell, ...]
    verdicts: tuple[Verdict, ...]
    best: Policy

    def to_json(self) -> dict[str, Any]:
        cells = [{"policy": asdict(c.policy), "load": c.load, **asdict(c.figures)} for c in self.cells]
        return {
            "kind": "scaling",
            "criterion": f"least replica-seconds a completion, p99 within {WITHIN:g}x of the best under every load",
            "settings": asdict(self.settings),
            "cost": asdict(self.cost),
            "workload": self.workload,
            "mean_tokens": self.mean_tokens,
            "tokens_per_s": self.tokens_per_s,
            "generate_s": self.generate_s,
            "needed": self.needed,
            "best": asdict(self.best),
            "verdicts": [asdict(v) for v in self.verdicts],
            "cells": cells,
        }


def run_grid(
    settings: GridSettings,
    cost: ForwardCost,
    workload: str,
    groups: Sequence[Group],
    *,
    targets: Sequence[float] = TARGETS,
    downscale_delays_s: Sequence[float] = DOWNSCALE_DELAYS_S,
    around: Mapping[str, Sequence[Any]] = AROUND,
    processes: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> GridReport:
    """All policies under all loads. say: told what is done."""
    mean_tokens = sum(g.tokens for g in groups) / len(groups)
    tokens_per_s = batch_tokens_per_s(cost, groups, settings.max_batch_tokens)
    needed = max(1, round(PEAK_SHARE * settings.max_replicas))
    generate_s = settings.num_actors * settings.groups_per_step * mean_tokens / (needed * tokens_per_s)
    run = partial(run_cell, settings, cost, groups, generate_s, needed)
    cells: list[GridCell] = []
    with multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else _Here() as pool:

        def add(policies: Sequence[Policy]) -> None:
            known = {cell.policy for cell in cells}
            todo = [(p, load) for p in dict.fromkeys(policies) if p not in known for load in settings.loads()]
            for cell in pool.imap(run, todo):
                say(f"{cell.load}: {cell.policy}: {cell.figures}")
                cells.append(cell)

        base = Policy()
        add([replace(base, target_batches=t, downscale_delay_s=d) for t in targets for d in downscale_delays_s])
        best = choose(judge(cells)).policy
        add([replace(best, **{name: value}) for name, values in around.items() for value in values])
    verdicts = judge(cells)
    return GridReport(
        settings=settings,
        cost=cost,
        workload=workload,
        mean_tokens=mean_tokens,
        tokens_per_s=tokens_per_s,
        generate_s=generate_s,
        needed=needed,
        cells=tuple(cells),
        verdicts=verdicts,
        best=choose(verdicts).policy,
    )


class _Here:
    """A pool of this process alone."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    imap = staticmethod(map)


def run_cell(
    settings: GridSettings,
    cost: ForwardCost,
    groups: Sequence[Group],
    generate_s: float,
    needed: int,
    what: tuple[Policy, str],
) -> GridCell:
    """One policy under one load. It begins with as many replicas as keep the first load at PEAK_SHARE."""
    policy, load = what
    profile = settings.loads()[load]
    first = math.ceil(settings.max_replicas * profile.level(0.0) / settings.num_actors)
    deployment = Deployment(
        cost=cost,
        replicas=max(settings.min_replicas, first),
        scaling=ScalingSettings(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_tokens=policy.target_batches * settings.max_batch_tokens,
            upscale_delay_s=policy.upscale_delay_s,
            downscale_delay_s=policy.downscale_delay_s,
            metrics_interval_s=policy.metrics_interval_s,
        ),
        max_batch_tokens=settings.max_batch_tokens,
        max_ongoing_requests=policy.max_ongoing_requests,
        start_s=settings.start_s,
    )
    actors = Actors(
        num_actors=settings.num_actors,
        groups_per_step=settings.groups_per_step,
        generate_s=generate_s,
        timeout_s=settings.timeout_s,
    )
    end_s = settings.warm_s + settings.counted_s
    outcome = simulate_actors(deployment, actors, profile, groups, end_s=end_s, seed=settings.seed)
    figures = summarise(outcome, from_s=settings.warm_s, needed=needed, profile=profile)
    return GridCell(policy, load, figures, tuple(outcome.looks))


def judge(cells: Sequence[GridCell]) -> tuple[Verdict, ...]:
    """Each policy beside the best, in the order in which they ran."""
    by_load: dict[str, list[Figures]] = {}
    by_policy: dict[Policy, dict[str, Figures]] = {}
    for cell in cells:
        by_load.setdefault(cell.load, []).append(cell.figures)
        by_policy.setdefault(cell.policy, {})[cell.load] = cell.figures
    least_p99 = {load: min(f.p99_s for f in figures) for load, figures in by_load.items()}
    least_cost = {load: min(f.replica_s_per_1000 for f in figures) for load, figures in by_load.items()}
    most = {load: max(f.completions_per_s for f in figures) for load, figures in by_load.items()}
    verdicts = []
    for policy, figures in by_policy.items():
        p99_ratio = max(f.p99_s / least_p99[load] for load, f in figures.items())
        cost_ratio = sum(f.replica_s_per_1000 / least_cost[load] for load, f in figures.items()) / len(figures)
        whole = all(not f.failed and f.completions_per_s >= THROUGHPUT_WITHIN * most[n] for n, f in figures.items())
        verdicts.append(Verdict(policy, p99_ratio, cost_ratio, whole and p99_ratio <= WITHIN))
    return tuple(verdicts)


def choose(verdicts: Sequence[Verdict]) -> Verdict:
    """The cheapest of the sound ones; where none is sound under every load, the one with the least p99 ratio."""
    sound = [v for v in verdicts if v.sound]
    return min(sound, key=lambda v: v.cost_ratio) if sound else min(verdicts, key=lambda v: v.p99_ratio)
