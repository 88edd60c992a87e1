"""The ceiling: forwards in one process, bare and behind an engine. An actor of `cluster`; knows nothing of Ray.

Bare means a scorer's forward on requests that are encoded already, in the order in which callers ask for them and in
batches by a token budget: no tokenizer, no queue, no callers and no answers.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rmray.benchmark.serve.load import Loop, closed_loop
from rmray.benchmark.serve.work import Work
from rmray.models.scorer import Encoded, Scorer
from rmray.schema import ScoreRequest, ScoreResult

BARE_BATCH_TOKENS = 4096
"""Of a bare forward: about what waits at saturation. On CPUs larger ones are no faster."""
TIMED_FORWARDS = 15


class Forwards:
    """A bundle's scorer with `threads` torch threads. work: see `work`."""

    def __init__(self, bundle_dir: Path, work: Work, threads: int) -> None:
        import torch

        from rmray.models.bundle import load_bundle

        torch.set_num_threads(threads)
        self._scorer: Scorer = load_bundle(bundle_dir, device="cpu", check=False)  # exported, so checked, just now
        self._work = work
        self._encoded: dict[tuple[str, int], list[Encoded]] = {}

    async def scores(self, kind: tuple[str, int], number: int) -> list[float]:
        """Of the first `number` requests, one by one: no batch, nothing shared between requests."""
        found: list[float] = []
        for encoded in self._encode(kind)[:number]:
            found += self._scorer.forward([encoded])[0].tolist()
        return found

    async def bare(self, kind: tuple[str, int], seconds: float) -> float:
        """Completions a second of whole batches, for at least `seconds`, from the first request on as in every loop."""
        encoded = self._encode(kind)
        batches = batches_in_order([e.num_tokens for e in encoded], BARE_BATCH_TOKENS)
        completions, start_s = 0, time.perf_counter()
        while (took_s := time.perf_counter() - start_s) < seconds or not completions:
            batch = [encoded[i] for i in next(batches)]
            completions += sum(len(raw) for raw in self._scorer.forward(batch))
        return completions / took_s

    async def one_forward_s(self, kind: tuple[str, int]) -> float:
        """Median seconds of a forward of one request alone."""
        encoded, seconds = self._encode(kind), []
        for e in encoded[: TIMED_FORWARDS + 1]:
            start_s = time.perf_counter()
            self._scorer.forward([e])
            seconds.append(time.perf_counter() - start_s)
        return statistics.median(seconds[1:] or seconds)

    async def encode_s(self, kind: tuple[str, int]) -> float:
        """Median seconds of encoding one request."""
        seconds = []
        for request in self._work[kind][:TIMED_FORWARDS]:
            start_s = time.perf_counter()
            self._scorer.encode([request])
            seconds.append(time.perf_counter() - start_s)
        return statistics.median(seconds)

    async def engine(self, kind: tuple[str, int], callers: int, seconds: float) -> Loop:
        """A closed loop over a ScoringEngine, its callers on the same event loop."""
        return await engine_loop(self._scorer, self._work[kind], callers=callers, seconds=seconds)

    def _encode(self, kind: tuple[str, int]) -> list[Encoded]:
        if kind not in self._encoded:
            self._encoded[kind] = self._scorer.encode(self._work[kind])
        return self._encoded[kind]


def batches_in_order(num_tokens: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Indices over and over, in batches of at most `max_batch_tokens`; one larger element gets a batch of its own. Not
    by length: the few batches of a short loop would be the longest requests, and the ceiling too low."""
    batch: list[int] = []
    total = 0
    for i in itertools.cycle(range(len(num_tokens))):
        if batch and total + num_tokens[i] > max_batch_tokens:
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += num_tokens[i]


async def engine_loop(scorer: Scorer, requests: Sequence[ScoreRequest], *, callers: int, seconds: float) -> Loop:
    """A closed loop over a ScoringEngine of this process."""
    from rmray.serving.engine import ScoringEngine

    engine = ScoringEngine(scorer)
    engine.start()

    async def call(number: int) -> int:
        (response,) = await engine.score([requests[number % len(requests)]])
        return len([r for r in response.results if isinstance(r, ScoreResult)])

    try:
        return await closed_loop(call, callers=callers, seconds=seconds)
    finally:
        await engine.aclose()
