"""Callers that count: each call answered once, each score that of the version it names. And a scorer of known pace."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rmray.client import RewardClient
from rmray.models.scorer import Encoded, RawScores
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse
from tests.fakes import ArithmeticScorer
from tests.waiting import wait_for

TOLERANCE = 1e-5  # fp32 on the same kind of device: the goldens' own


class CountedLoad:
    """While it is entered, `callers` tasks a client ask one call after the other, for ever, and check each answer.

    expected: of each version, the raw scores of each of `requests`. A call is one request. failed, wrong: what was
    answered otherwise, with the version; both stay empty where nothing is lost.
    """

    def __init__(
        self,
        clients: Sequence[RewardClient],
        requests: Sequence[ScoreRequest],
        expected: Mapping[str, Sequence[Sequence[float]]],
        *,
        callers: int = 4,
        pause_s: float = 0.0,
    ) -> None:
        self._clients, self._requests, self._expected = clients, requests, expected
        self._callers, self._pause_s = callers, pause_s
        self.asked = self.answered = 0
        self.by_version: Counter[str] = Counter()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.latencies_s: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="load")

    def __enter__(self) -> CountedLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def healthy(self) -> bool:
        return not self.failed and not self.wrong

    def wait_for_answers(self, number: int, *, timeout_s: float = 60.0) -> None:
        """Until so many more answers came, or one was wrong."""
        goal = self.answered + number
        wait_for(lambda: self.answered >= goal or not self.healthy, timeout_s=timeout_s, what=f"{number} more answers")

    def check(self) -> None:
        """Every call was answered, once, with the scores of the version it names."""
        assert self.healthy, (len(self.failed), self.failed[:3], len(self.wrong), self.wrong[:3])
        assert self.answered == self.asked > 0

    def slowest_s(self) -> float:
        return max(self.latencies_s)

    async def _main(self) -> None:
        turns = itertools.count()
        await asyncio.gather(*(self._call(client, turns) for client in self._clients for _ in range(self._callers)))

    async def _call(self, client: RewardClient, turns: Any) -> None:
        while not self._stop.is_set():
            i = next(turns) % len(self._requests)
            self.asked += 1
            start_s = time.monotonic()
            try:
                (response,) = await client.ascore([self._requests[i]])
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                continue
            self.latencies_s.append(time.monotonic() - start_s)
            self._check(i, response)
            await asyncio.sleep(self._pause_s)

    def _check(self, i: int, response: ScoreResponse) -> None:
        failures = [r for r in response.results if isinstance(r, ScoreFailure)]
        if failures:
            self.failed.append(f"{failures[0].code}: {failures[0].message}")
            return
        versions = {r.model_version for r in response.results}
        (version, *others) = versions
        raws = [r.raw for r in response.results]
        expected = self._expected[version][i]
        near = len(raws) == len(expected) and all(abs(a - b) <= TOLERANCE for a, b in zip(raws, expected, strict=True))
        if others or not near or response.id != self._requests[i].id:
            self.wrong.append(f"{versions}, request {i}: {raws} for {expected}")
            return
        self.answered += 1
        self.by_version[version] += 1


class PacedScorer(ArithmeticScorer):
    """Forwards at a known pace, tokens/s, so that a test knows what is too much for it."""

    def __init__(self, version: str, tokens_per_s: float) -> None:
        super().__init__(lambda prompt, completion: len(completion) + offset(version), version=version)
        self._tokens_per_s = tokens_per_s

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        time.sleep(sum(e.num_tokens for e in batch) / self._tokens_per_s)
        return super().forward(batch)


def offset(version: str) -> float:
    """What a fake version adds to its scores: the number in its name."""
    return float(version.removeprefix("v"))


def fake_requests(number: int = 200) -> list[ScoreRequest]:
    """Groups of 1 to 8 completions, each call's scores unlike the next one's."""
    return [
        ScoreRequest(prompt=f"prompt {i}", completions=tuple("x" * (i + k + 1) for k in range(1 + i % 8)), id=str(i))
        for i in range(number)
    ]


def fake_scores(version: str, requests: Sequence[ScoreRequest]) -> list[list[float]]:
    return [[len(str(c)) + offset(version) for c in r.completions] for r in requests]
