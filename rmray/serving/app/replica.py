"""One replica: a scorer behind an engine. Made by Serve inside the app that `deploy` builds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from rmray.errors import BundleError
from rmray.models.scorer import Scorer, ScorerInfo
from rmray.schema import ScoreRequest, ScoreResponse
from rmray.serving.app.autoscaling import ACCEPTED_TOKENS, MEAN_CALL_TOKENS
from rmray.serving.app.health import CheckMaker, HealthWatch, probe
from rmray.serving.app.metrics import start_metrics
from rmray.serving.engine import EngineLimits, ScoringEngine
from rmray.serving.observed import Observed

ScorerFactory = Callable[[], Scorer]


class ScorerReplica:
    """Serve's class. A replica that loads another version than it was told to, or can't score, never starts.

    check_maker, check_every_s: see `health`.
    """

    async def __init__(  # type: ignore[misc]
        self,
        factory: ScorerFactory,
        model_version: str,
        limits: EngineLimits,
        check_maker: CheckMaker | None = None,
        check_every_s: float = 60.0,
    ) -> None:
        # Serve awaits it: loading stays off the loop, and the engine starts on it.
        scorer = await asyncio.to_thread(factory)
        if scorer.info.model_version != model_version:
            raise BundleError(
                "the scorer is of another version than was asked for",
                why=f"asked for {model_version}, loaded {scorer.info.model_version}",
                next_step="deploy again; the bundle changed meanwhile",
            )
        self._observed = Observed()
        self._engine = ScoringEngine(scorer, limits, observer=self._observed)
        self._engine.start()
        # The first forward pays for what later ones find ready, and shows that there will be later ones.
        await self._engine.between_forwards(lambda: probe(scorer))
        check = None if check_maker is None else await self._engine.between_forwards(lambda: check_maker(scorer))
        self._health = HealthWatch(self._engine, check, every_s=check_every_s)
        self._metrics = start_metrics(self._engine, self._observed)

    async def score(self, requests: Sequence[ScoreRequest], timeout_s: float) -> list[ScoreResponse]:
        """Responses in the order of the requests; never raises for a fault of a request."""
        start_s = time.perf_counter()
        try:
            responses = await self._engine.score(requests, timeout_s=timeout_s)
        except asyncio.CancelledError:
            self._observed.cancelled(requests)
            raise
        self._observed.call(requests, responses, time.perf_counter() - start_s)
        return responses

    async def info(self) -> ScorerInfo:
        """Who answers."""
        return self._engine.scorer.info

    async def check_health(self) -> None:
        """Serve calls this every few seconds and replaces a replica where it raises three times in a row."""
        await self._health.look()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve calls this every `metrics_interval_s`, for the policy in `autoscaling`."""
        return {
            ACCEPTED_TOKENS: float(self._engine.queued_tokens),
            MEAN_CALL_TOKENS: self._engine.stats.mean_call_tokens,
        }

    def __del__(self) -> None:
        # Serve calls this after the last accepted request was answered.
        metrics = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics.stop()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.stop()
