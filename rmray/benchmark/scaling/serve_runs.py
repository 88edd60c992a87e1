"""Loads against real Serve replicas of a PacedScorer, and what their callers saw. Called by `serve_compare`.

Callers share one process and one handle, as the tasks of an RL loop's process do.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rmray.benchmark.scaling.cluster import connect, served_paced, watched
from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.engine_runs import Measured, measure_calls
from rmray.benchmark.scaling.load import Group
from rmray.benchmark.scaling.starts import Counts, counts_of, start_seconds
from rmray.benchmark.serve.load import Loop, closed_loop, open_loop
from rmray.client.rewards import RewardClient
from rmray.schema import ScoreRequest, ScoreResult

TIMEOUT_S = 300.0

Trace = Sequence[tuple[float, int]]
"""When each call is made, and for which group."""


@dataclass(frozen=True, slots=True)
class ScaledRun:
    """A load step over replicas that come and go. counts: from the start of the load. starts_s: of the replicas that
    came. load_average: of the machine, over the last minute."""

    calls: Loop
    counts: Counts
    starts_s: tuple[float, ...]
    load_average: float


def load_average() -> float:
    """Processes that wanted to run, over the last minute."""
    return os.getloadavg()[0]


def measure_loop(loop: Loop) -> Measured:
    """Of the calls answered within the window."""
    latencies_s = [r.latency_s for r in loop.replies if loop.start_s <= r.answered_s <= loop.end_s]
    return measure_calls(latencies_s, loop.end_s - loop.start_s)


def run_callers(requests: Sequence[ScoreRequest], callers: int, run_s: float) -> Loop:
    """Callers in a closed loop, which ask for the requests in turn."""

    async def main() -> Loop:
        client = connect()

        async def call(number: int) -> int:
            return await _ask(client, requests[number % len(requests)])

        return await closed_loop(call, callers=callers, seconds=run_s)

    return asyncio.run(main())


def run_trace(requests: Sequence[ScoreRequest], trace: Trace) -> Loop:
    """Calls at the times of the trace, whoever waits; a handle that is new finds the replicas first."""

    async def main() -> Loop:
        client = connect()
        await _ask(client, requests[0])

        async def call(number: int) -> int:
            return await _ask(client, requests[trace[number][1]])

        return await open_loop(call, [when_s for when_s, _ in trace])

    return asyncio.run(main())


def measure_call_s(requests: Sequence[ScoreRequest], groups: Sequence[Group], pace: ForwardCost, run_s: float) -> float:
    """What a call takes beside its forward, of one caller: the median."""
    loop = run_callers(requests, 1, run_s)
    asked = (groups[i % len(groups)] for i in range(len(loop.replies)))
    return statistics.median(
        r.latency_s - pace.seconds(g.tokens, g.pairs) for r, g in zip(loop.replies, asked, strict=True)
    )


def run_step(
    requests: Sequence[ScoreRequest], pace: ForwardCost, trace: Trace, *, rest_s: float, options: dict[str, object]
) -> ScaledRun:
    """The trace against a new app that scales, and `rest_s` without a call after it."""
    with served_paced(pace, **options) as app, watched(app) as looks:
        loop = run_trace(requests, trace)
        average = load_average()
        time.sleep(rest_s)
    seen = [look for look in looks if look.now_s >= loop.start_s]
    return ScaledRun(
        loop,
        counts_of([(look.now_s - loop.start_s, len(look.running)) for look in seen]),
        start_seconds(looks),
        average,
    )


async def _ask(client: RewardClient, request: ScoreRequest) -> int:
    (response,) = await client.ascore([request], timeout_s=TIMEOUT_S)
    if not all(isinstance(result, ScoreResult) for result in response.results):
        raise RuntimeError(f"a completion of the benchmark has no score: {response.results}")
    return len(response.results)
