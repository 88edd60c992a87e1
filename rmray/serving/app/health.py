"""Is a replica still the scorer that it loaded? Asked of `replica` by Serve, every few seconds.

A check runs on the forward thread between two forwards: behind the one that runs and before all that wait, so that a
long queue neither delays it nor is taken for a fault. Serve's question does not wait for it: it begins a check where
one is due and hears what the last one found.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from rmray.errors import BundleError
from rmray.models.scorer import Scorer
from rmray.schema import ItemResult, ScoreFailure, ScoreRequest
from rmray.serving.engine import ScoringEngine
from rmray.serving.faults import decode_one, encode_each, forward_each

logger = logging.getLogger(__name__)

Check = Callable[[], None]
"""Raises BundleError where the scores are not the model's any more, anything else where there are none."""
CheckMaker = Callable[[Scorer], Check]
"""Makes a replica's check of the scorer that it has loaded."""

PROBE = ScoreRequest(prompt="Hello. ", completions=("Hello to you.", "Yes."), id="probe")
SCORER_FAULTS = {"encode_failed", "forward_failed", "decode_failed", "non_finite"}
"""Failures of the probe that are the scorer's fault; others (`over_length`, or `replica_lost` of a server that a judge
asks) say nothing about it."""
MAX_FAILED_FORWARDS = 3
HUNG_S = 600.0
"""A check waits for one forward and no more. One that has not ended by then never will: no deadline over HTTP is
longer."""
SHORT_S = 1.0
"""So long Serve's question waits for a check, in case it is a quick one."""


def probe(scorer: Scorer) -> None:
    """Score a probe; BundleError where the scorer can't."""
    (encoded,) = encode_each(scorer, [PROBE])
    results: Sequence[ItemResult]
    if isinstance(encoded, ScoreFailure):
        results = [encoded]
    elif isinstance(raw := forward_each(scorer, [encoded])[0], ScoreFailure):
        results = [raw]
    else:
        results = decode_one(scorer, encoded, raw).results
    for result in results:
        if isinstance(result, ScoreFailure) and result.code in SCORER_FAULTS:
            raise BundleError("the scorer can't score a probe", why=f"{result.code}: {result.message}")


def exit_process() -> None:
    """End this replica at once. Its callers ask another one, as when a node is lost, and Serve starts a new one; an
    error of the health check alone would let it answer wrongly until Serve has heard it three times."""
    logging.shutdown()  # why, has been logged
    os._exit(1)


class HealthWatch:
    """check: of a bundle's golden; None: a probe, and none while forwards succeed, from which no more could be learned,
    nor while a source has nothing to do, which may be paid for each question. every_s: between two checks. give_up:
    called where the scores are no longer the model's."""

    def __init__(
        self,
        engine: ScoringEngine,
        check: Check | None,
        *,
        every_s: float,
        give_up: Callable[[], None] = exit_process,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._every_s, self._give_up, self._clock = engine, every_s, give_up, clock
        self._is_golden, self._check = check is not None, check or partial(probe, engine.scorer)
        self._asks_others = bool(getattr(engine.scorer, "asks_others", False))
        self._last_s, self._seen_batches = clock(), engine.stats.num_batches
        self._running: asyncio.Task[None] | None = None
        self._fault: Exception | None = None

    async def look(self) -> None:
        """Raise what is wrong. RuntimeError where the engine has stopped or hangs, else what the last check raised."""
        self._engine.check()
        if self._running is None and self._is_due():
            self._last_s, self._seen_batches = self._clock(), self._engine.stats.num_batches
            self._running = asyncio.get_running_loop().create_task(self._run(), name="rmray-health")
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=SHORT_S)
        if self._running is not None and (waited_s := self._clock() - self._last_s) > HUNG_S:
            raise RuntimeError(f"a forward hangs: a check has waited {waited_s:.0f} s for it")
        if self._fault is not None:
            raise self._fault

    def _is_due(self) -> bool:
        if self._fault is not None or self._engine.stats.failed_forwards_in_a_row >= MAX_FAILED_FORWARDS:
            return True  # whose fault it is, only a check can say
        if self._clock() - self._last_s < self._every_s:
            return False
        idle = self._engine.stats.num_batches == self._seen_batches
        return self._is_golden or (idle and not self._asks_others)

    async def _run(self) -> None:
        try:
            await self._engine.between_forwards(self._check)
            self._fault = None
        except Exception as error:
            self._fault = error
            if self._is_golden and isinstance(error, BundleError):
                logger.error("the replica ends itself: %s", error)
                self._give_up()
        finally:
            self._running = None
