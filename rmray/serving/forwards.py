"""Run one forward after the other, and keep count of what they came to. Called by `engine`, on its forward thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rmray.models.scorer import Encoded, ForwardTokens, RawScores, Scorer
from rmray.schema import ScoreFailure
from rmray.serving.faults import forward_each


@dataclass(slots=True)
class EngineStats:
    """Counters since the start. tokens_per_s: of recent forwards, 0 before the first. mean_call_tokens: of recent
    calls, likewise. failures: completions answered without a score, by code (`non_finite` among them)."""

    num_batches: int = 0
    num_requests: int = 0
    num_tokens: int = 0
    forward_s: float = 0.0
    tokens_per_s: float = 0.0
    mean_call_tokens: float = 0.0
    failed_forwards_in_a_row: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def count_call(self, tokens: int) -> None:
        """One call was accepted and tokenised, of so many tokens."""
        self.mean_call_tokens = _recent(self.mean_call_tokens, tokens)

    def count_forward(self, requests: int, tokens: int, took_s: float, *, failed: bool) -> None:
        """One forward is done. failed: for every request in it."""
        self.num_batches += 1
        self.num_requests += requests
        self.num_tokens += tokens
        self.forward_s += took_s
        if failed:
            self.failed_forwards_in_a_row += 1
        else:
            self.failed_forwards_in_a_row = 0
            self.tokens_per_s = _recent(self.tokens_per_s, tokens / max(took_s, 1e-9))


@dataclass(frozen=True, slots=True)
class Forward:
    """tokens: None where the scorer doesn't say."""

    results: list[RawScores | ScoreFailure]
    took_s: float
    tokens: ForwardTokens | None


def run_forward(scorer: Scorer, batch: Sequence[Encoded], stats: EngineStats) -> Forward:
    """One forward, and where it fails, one a request, to find whose fault it was."""
    start_s = time.perf_counter()
    results = forward_each(scorer, batch)
    took_s = time.perf_counter() - start_s
    failures = [isinstance(r, ScoreFailure) for r in results]
    stats.count_forward(len(batch), sum(e.num_tokens for e in batch), took_s, failed=all(failures))
    # After a failure the last forward was of one request alone.
    computed: ForwardTokens | None = None if any(failures) else getattr(scorer, "last_forward", None)
    return Forward(results, took_s, computed)


def _recent(mean: float, value: float) -> float:
    """The mean of recent values with one more; 0 stands for none yet."""
    return 0.8 * mean + 0.2 * value if mean else value
