"""One replica: a scorer behind an engine. Made by Serve inside the app that `deploy` builds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from rmray.errors import BundleError
from rmray.models.scorer import Scorer, ScorerInfo
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse
from rmray.serving.app.metrics import start_metrics
from rmray.serving.engine import EngineLimits, ScoringEngine
from rmray.serving.observed import Observed

logger = logging.getLogger(__name__)

ScorerFactory = Callable[[], Scorer]

PROBE = ScoreRequest(prompt="Hello. ", completions=("Hello to you.", "Yes."), id="probe")
SCORER_FAULTS = {"encode_failed", "forward_failed", "decode_failed", "non_finite", "replica_lost"}
"""Failures of the probe that are the scorer's fault; others (`over_length`) say nothing about it."""
MAX_FAILED_FORWARDS = 3


def load_scorer(bundle_dir: str, gpus: float) -> Scorer:
    """Load a bundle on this replica's device and check it: files, rules, goldens. Raises BundleError."""
    from rmray.models.bundle import load_bundle

    return load_bundle(bundle_dir, device="cuda" if gpus else "cpu")


class ScorerReplica:
    """Serve's class. A replica that loads another version than it was told to, or can't score, never starts."""

    async def __init__(self, factory: ScorerFactory, model_version: str, limits: EngineLimits) -> None:  # type: ignore[misc]
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
        await self._probe()
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
        """Serve calls this every few seconds and replaces a replica where it raises."""
        self._engine.check()
        # Forwards that fail may be one caller's doing: only the probe says whose fault it is.
        if self._engine.stats.failed_forwards_in_a_row >= MAX_FAILED_FORWARDS:
            await self._probe()

    def __del__(self) -> None:
        # Serve calls this after the last accepted request was answered.
        metrics = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics.stop()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.stop()

    async def _probe(self) -> None:
        (response,) = await self._engine.score([PROBE])
        for result in response.results:
            if isinstance(result, ScoreFailure) and result.code in SCORER_FAULTS:
                raise BundleError("the scorer can't score a probe", why=f"{result.code}: {result.message}")
