"""What a replica sees of its forwards and calls, summed up from one look to the next. No Ray, no clock, no text.

The engine tells of forwards, `app.replica` of calls, both on the event loop; `app.metrics` takes what came together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rmray.models.scorer import Encoded, ForwardTokens
from rmray.retry import RETRY_CODES
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult

MAX_CODES = 32
"""Codes of failures that are told apart; what comes after is `other`, so that no scorer can make labels without end."""


@dataclass(frozen=True, slots=True)
class SeenBatch:
    """One forward. queued_tokens: of its requests as the queue counted them, each prompt once. asked_tokens: of its
    completions with their prompts, each whole. computed_tokens: what went through the model, padding_tokens among them.
    oldest_wait_s: of the request that waited longest, since it was tokenised."""

    num_requests: int
    queued_tokens: int
    asked_tokens: int
    computed_tokens: int
    padding_tokens: int
    forward_s: float
    oldest_wait_s: float


def seen_batch(
    batch: Sequence[Encoded], tokens: ForwardTokens | None, *, forward_s: float, oldest_wait_s: float
) -> SeenBatch:
    """tokens: what the scorer says that it computed; where it doesn't say, what the requests cost alone."""
    queued = sum(e.num_tokens for e in batch)
    if tokens is None:
        tokens = ForwardTokens(queued)
    asked = sum(e.group.num_path_tokens for e in batch if e.group is not None)
    return SeenBatch(len(batch), queued, asked, tokens.computed, tokens.padding, forward_s, oldest_wait_s)


class BatchObserver(Protocol):
    """Whom the engine tells of its forwards, on the event loop."""

    def batch(self, seen: SeenBatch) -> None: ...


@dataclass(slots=True)
class Seen:
    """What came together since the last look. calls_s: seconds of each call that was not turned away. failures:
    completions without a score, by code. rewards: of the others, in the order of the answers."""

    batches: list[SeenBatch] = field(default_factory=list)
    calls_s: list[float] = field(default_factory=list)
    num_requests: int = 0
    num_completions: int = 0
    num_unfinished: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    rewards: list[float] = field(default_factory=list)


class Observed:
    """A BatchObserver that sums up. Every method is for the event loop's thread."""

    def __init__(self) -> None:
        self._seen = Seen()
        self._codes: set[str] = set()

    def batch(self, seen: SeenBatch) -> None:
        self._seen.batches.append(seen)

    def call(self, requests: Sequence[ScoreRequest], responses: Sequence[ScoreResponse], took_s: float) -> None:
        """A call that was answered, whatever with. One that was turned away is no measure of how long calls take."""
        self._count(requests)
        results = [result for response in responses for result in response.results]
        scored = [r.reward for r in results if isinstance(r, ScoreResult)]
        self._seen.rewards += scored
        codes = [r.code for r in results if isinstance(r, ScoreFailure)]
        self._seen.failures.update(map(self._code, codes))
        if scored or not RETRY_CODES.issuperset(codes):
            self._seen.calls_s.append(took_s)

    def cancelled(self, requests: Sequence[ScoreRequest]) -> None:
        """A call whose caller went away before its answer."""
        self._count(requests)
        self._seen.failures[self._code("cancelled")] += sum(len(r.completions) for r in requests)

    def take(self) -> Seen:
        """What was seen since the last time."""
        seen, self._seen = self._seen, Seen()
        return seen

    def _count(self, requests: Sequence[ScoreRequest]) -> None:
        seen = self._seen
        seen.num_requests += len(requests)
        for request in requests:
            seen.num_completions += len(request.finished)
            seen.num_unfinished += len(request.finished) - sum(request.finished)

    def _code(self, code: str) -> str:
        if code not in self._codes:
            if len(self._codes) >= MAX_CODES:
                return "other"
            self._codes.add(code)
        return code
