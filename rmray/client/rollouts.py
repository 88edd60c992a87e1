"""Act as an RL loop does: groups of completions, rewards, advantages whitened per group. Called by `jobs/rollouts.py`.

No policy is run: completions come with the prompts, as a sampler would deliver them. Ray is in `handle` alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from rmray.client.rewards import RewardClient
from rmray.errors import DataError, RequestError, RowError, UserError
from rmray.metrics.whitening import whiten
from rmray.schema import Content, ItemResult, ScoreFailure, ScoreRequest, ScoreResult


@dataclass(frozen=True, slots=True)
class RolloutPrompt:
    """A prompt and the completions that a policy may give to it."""

    prompt: Content
    completions: tuple[Content, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """steps: of each actor. groups_per_step: prompts in one step, all in flight at once. group_size: completions (K)
    per prompt, drawn with replacement where the prompt has fewer. timeout_s: of one group."""

    steps: int = 20
    groups_per_step: int = 8
    group_size: int = 8
    timeout_s: float = 60.0


@dataclass(slots=True)
class RolloutStats:
    """What one actor saw. latencies_s: one a group. failures: completions without a score, by code."""

    latencies_s: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    advantage_sum_sq: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    model_versions: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutReport:
    """The figures of a run. advantage_std: of whitened advantages, 1 where every group had differing rewards."""

    num_groups: int
    num_completions: int
    num_failed: int
    failures: dict[str, int]
    model_versions: dict[str, int]
    took_s: float
    completions_per_s: float
    latency_median_s: float
    latency_p95_s: float
    latency_p99_s: float
    reward_mean: float | None
    advantage_std: float | None


def read_rollout_prompts(source: str) -> list[RolloutPrompt]:
    """Prompts with their completions from a file of `prompt` and `completions` (or `chosen` and `rejected`) rows.

    Raises DataError where a row has no completion to roll out, naming its line.
    """
    from rmray.data.requests import read_requests

    prompts = []
    for _, line, request in read_requests(source):
        if isinstance(request, RowError):
            raise DataError("a row cannot be rolled out", where=f"{source}:{line}", why=str(request))
        prompts.append(RolloutPrompt(request.prompt, request.completions))
    if not prompts:
        raise DataError("there is no prompt to roll out", where=source)
    return prompts


def plan_groups(
    prompts: Sequence[RolloutPrompt], settings: RolloutSettings, rng: np.random.Generator
) -> list[ScoreRequest]:
    """The groups of one step: prompts at random, K of each one's completions."""
    groups = []
    for i in rng.integers(len(prompts), size=settings.groups_per_step):
        pool = prompts[i].completions
        picks = rng.choice(len(pool), size=settings.group_size, replace=len(pool) < settings.group_size)
        groups.append(ScoreRequest(prompt=prompts[i].prompt, completions=tuple(pool[k] for k in picks)))
    return groups


def group_advantages(rewards_K: Sequence[float]) -> npt.NDArray[np.float64]:
    """GRPO's advantages: rewards of one group, whitened over those K that have one; none gives none."""
    return np.asarray(whiten(rewards_K)) if len(rewards_K) else np.zeros(0)


async def roll_out(
    client: RewardClient,
    prompts: Sequence[RolloutPrompt],
    settings: RolloutSettings,
    *,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> RolloutStats:
    """Run `settings.steps` steps against `client`; a step ends when all its groups have their rewards."""
    rng = np.random.default_rng(seed)
    stats = RolloutStats()

    async def group(request: ScoreRequest) -> None:
        start_s = clock()
        results: list[ItemResult]
        try:
            results = await client.ascore_group(
                request.prompt, request.completions, errors="return", timeout_s=settings.timeout_s
            )
        except RequestError as error:  # of the whole call: one late group is no reason to lose the others
            results = [ScoreFailure(code=error.code, message=error.what)] * len(request.completions)
        stats.latencies_s.append(clock() - start_s)
        scored = [r for r in results if isinstance(r, ScoreResult)]
        stats.failures.update(r.code for r in results if isinstance(r, ScoreFailure))
        stats.model_versions.update(r.model_version for r in scored)
        # A completion without a score has no advantage: an RL loop leaves it out of the update.
        advantages_K = group_advantages([r.reward for r in scored])
        stats.rewards += [r.reward for r in scored]
        stats.advantage_sum_sq += float(np.square(advantages_K).sum())

    for _ in range(settings.steps):
        await asyncio.gather(*(group(r) for r in plan_groups(prompts, settings, rng)))
    return stats


def merge_stats(stats: Sequence[RolloutStats], *, took_s: float) -> RolloutReport:
    """The report over all actors; took_s: wall time they ran side by side."""
    latencies_s = np.array([x for s in stats for x in s.latencies_s])
    rewards = [x for s in stats for x in s.rewards]
    failures = sum((s.failures for s in stats), Counter[str]())
    median, p95, p99 = np.percentile(latencies_s, [50, 95, 99]) if len(latencies_s) else (0.0, 0.0, 0.0)
    advantage_sum_sq = sum(s.advantage_sum_sq for s in stats)
    return RolloutReport(
        num_groups=len(latencies_s),
        num_completions=len(rewards) + failures.total(),
        num_failed=failures.total(),
        failures=dict(failures),
        model_versions=dict(sum((s.model_versions for s in stats), Counter[str]())),
        took_s=took_s,
        completions_per_s=len(rewards) / took_s if took_s else 0.0,
        latency_median_s=float(median),
        latency_p95_s=float(p95),
        latency_p99_s=float(p99),
        reward_mean=float(np.mean(rewards)) if rewards else None,
        advantage_std=float(np.sqrt(advantage_sum_sq / len(rewards))) if rewards else None,
    )


def format_report(report: RolloutReport) -> str:
    """The report in a few lines for a terminal."""
    ms = [1000 * s for s in (report.latency_median_s, report.latency_p95_s, report.latency_p99_s)]
    reward = "none" if report.reward_mean is None else f"{report.reward_mean:.4f}"
    return "\n".join(
        [
            f"completions   {report.num_completions} in {report.num_groups} groups, {report.num_failed} unscored",
            f"throughput    {report.completions_per_s:.1f} completions/s over {report.took_s:.1f} s",
            f"latency       median {ms[0]:.1f} ms, p95 {ms[1]:.1f} ms, p99 {ms[2]:.1f} ms a group",
            f"mean reward   {reward}",
            *(f"failed        {count} x {code}" for code, count in sorted(report.failures.items())),
        ]
    )


class RolloutActor:
    """What one Ray actor of a rollout job does; `handle.run_rollouts` makes the actors."""

    def __init__(self, name: str, prompts: Sequence[RolloutPrompt], settings: RolloutSettings, seed: int) -> None:
        self._prompts, self._settings, self._seed = prompts, settings, seed
        self._client = RewardClient.connect(name, timeout_s=settings.timeout_s)

    def ready(self) -> str:
        """The model version that answers, once one group came back."""
        first = self._prompts[0]
        self._client.score_group(first.prompt, first.completions[:1], errors="return")
        return self._client.model().model_version

    def run(self) -> RolloutStats:
        """All steps of this actor."""
        return asyncio.run(roll_out(self._client, self._prompts, self._settings, seed=self._seed))


def main(argv: Sequence[str] | None = None) -> int:
    """The job: read prompts, let actors roll out, print the report.

    Exit code 0; 1 where a completion had no score; 2 for what the user can mend, told without a traceback.
    """
    from rmray.client.handle import run_rollouts

    parser = argparse.ArgumentParser(prog="rollouts", description="Ray actors ask a served model for rewards.")
    parser.add_argument("--prompts", required=True, metavar="FILE", help="rows with `prompt` and `completions`")
    parser.add_argument("--name", default="reward-model", help="the served model (default: %(default)s)")
    parser.add_argument("--actors", type=int, default=2, metavar="N")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of each actor")
    parser.add_argument("--groups-per-step", type=int, default=8, metavar="N")
    parser.add_argument("--group-size", type=int, default=8, metavar="K", help="completions per prompt")
    parser.add_argument("--timeout-s", type=float, default=60.0)
    parser.add_argument("--address", default=None, help="Ray cluster (default: RAY_ADDRESS, or the one running here)")
    parser.add_argument("--json", action="store_true", help="end stdout with one JSON object")
    arguments = parser.parse_args(argv)
    try:
        report = run_rollouts(
            arguments.name,
            read_rollout_prompts(arguments.prompts),
            RolloutSettings(
                steps=arguments.steps,
                groups_per_step=arguments.groups_per_step,
                group_size=arguments.group_size,
                timeout_s=arguments.timeout_s,
            ),
            num_actors=arguments.actors,
            address=arguments.address,
        )
    except (UserError, RequestError) as error:
        print(f"rollouts: error: {error}", file=sys.stderr)
        return 2
    print(format_report(report))
    if arguments.json:
        print(json.dumps(asdict(report), allow_nan=False))
    return 1 if report.num_failed else 0
