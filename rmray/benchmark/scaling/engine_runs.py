"""A load against the real engine in this process, and what its callers saw. Called by `validation`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmray.benchmark.scaling.forwards import Forward, PoolScorer
from rmray.errors import ConfigError
from rmray.schema import ScoreRequest, ScoreResult
from rmray.serving.engine import EngineLimits, ScoringEngine


@dataclass(frozen=True, slots=True)
class Measured:
    """What callers saw. num_calls: answered within the run."""

    num_calls: int
    calls_per_s: float
    mean_s: float
    p50_s: float
    p99_s: float


def measure_calls(latencies_s: Sequence[float], took_s: float) -> Measured:
    """Of a run that took so long. Raises ConfigError where no call was answered."""
    if not latencies_s:
        raise ConfigError("no call was answered within a run", where="--run-s", next_step="raise it")
    p50_s, p99_s = np.percentile(latencies_s, [50, 99]).tolist()
    return Measured(len(latencies_s), len(latencies_s) / took_s, float(np.mean(latencies_s)), p50_s, p99_s)


Load = Callable[[ScoringEngine], Any]


def run_load(scorer: PoolScorer, max_batch_tokens: int, load: Load) -> tuple[Measured, list[Forward]]:
    """A load against a new engine in this process; what its callers saw, and its forwards."""
    scorer.forwards = []

    async def main() -> tuple[list[float], float]:
        engine = ScoringEngine(scorer, EngineLimits(max_batch_tokens, 10**9))
        engine.start()
        try:
            start_s = time.perf_counter()
            latencies_s: list[float] = await load(engine)
            return latencies_s, time.perf_counter() - start_s
        finally:
            await engine.aclose()

    latencies_s, took_s = asyncio.run(main())
    return measure_calls(latencies_s, took_s), scorer.forwards


async def _ask(engine: ScoringEngine, request: ScoreRequest) -> float:
    start_s = time.perf_counter()
    (response,) = await engine.score([request])
    if not all(isinstance(result, ScoreResult) for result in response.results):
        raise RuntimeError(f"a completion of the benchmark has no score: {response.results}")
    return time.perf_counter() - start_s


def closed_loop(scorer: PoolScorer, orders: Sequence[Sequence[int]], run_s: float) -> Load:
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


def open_loop(scorer: PoolScorer, trace: Sequence[tuple[float, int]], sent: list[tuple[float, int]]) -> Load:
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
