"""What a simulated run comes to: throughput, latencies, cost, scaling lag. Pure. Called by `grid` and `validation`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.load import Group, Profile
from rmray.benchmark.scaling.records import Look, Outcome


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a run without its warm-up. *_s of latency: of a call, from the client's first attempt to its answer.

    replica_s: of all replicas, from the decision to start one to its end. replica_s_per_1000: of those, for 1,000
    completions. utilisation: share of it in a forward. lag_s: from the load's rise to enough replicas; None where there
    were never enough, or no such rise. wait_share: of the actors' time, waiting for rewards. rejections: calls told to
    ask again. failed: calls that got no score.
    """

    completions_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    replica_s: float
    replica_s_per_1000: float
    utilisation: float
    lag_s: float | None
    wait_share: float
    rejections: int
    failed: int


def summarise(outcome: Outcome, *, from_s: float, needed: int, profile: Profile) -> Figures:
    """The figures from `from_s` on. needed: replicas that the highest load takes."""
    sent = np.asarray(outcome.sent_s)
    latencies = np.asarray(outcome.latencies_s)[sent >= from_s]
    p50_s, p95_s, p99_s = np.percentile(latencies, [50, 95, 99]).tolist() if len(latencies) else (math.inf,) * 3
    completions = outcome.completions * len(latencies) / max(1, outcome.num_calls)
    looks = [look for look in outcome.looks if look.now_s >= from_s]
    share = len(looks) / max(1, len(outcome.looks))
    replica_s = float(sum(look.running + look.starting + look.draining for look in looks))
    waited = outcome.waited_s / max(1e-9, outcome.waited_s + outcome.generated_s)
    return Figures(
        completions_per_s=completions / (outcome.end_s - from_s),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        replica_s=replica_s,
        replica_s_per_1000=1000 * replica_s / max(1.0, completions),
        utilisation=outcome.busy_s * share / max(1e-9, replica_s),
        lag_s=scaling_lag_s(looks, profile.starts_s, needed),
        wait_share=waited,
        rejections=outcome.rejections,
        failed=outcome.failures.total(),
    )


def scaling_lag_s(looks: Sequence[Look], starts_s: float | None, needed: int) -> float | None:
    """Seconds from the rise of the load until so many replicas run."""
    if starts_s is None:
        return None
    return next((k.now_s - starts_s for k in looks if k.now_s >= starts_s and k.running >= needed), None)


def batch_tokens_per_s(cost: ForwardCost, groups: Sequence[Group], max_batch_tokens: int) -> float:
    """Tokens a second of a replica whose batches are full."""
    tokens = float(np.mean([g.tokens for g in groups]))
    pairs = float(np.mean([g.pairs for g in groups]))
    full = max(1.0, max_batch_tokens // tokens)
    return full * tokens / cost.seconds(full * tokens, full * pairs)
