"""Run one Scorer at the speed of its forward: encode on threads, forward on one thread, replies on the loop.

Called by `app.replica`, one engine a replica; knows nothing of Ray. Whatever waits when the device becomes idle makes
the next batch (`batching`). A request that fails is answered with ScoreFailure for each of its completions and never
fails another.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from rmray.errors import RequestError, RmrayError
from rmray.models.scorer import Encoded, RawScores, Scorer
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, TokenIds, num_chars
from rmray.serving.batching import BatchLimits, Waiting, plan_batch

logger = logging.getLogger(__name__)

CHARS_PER_TOKEN = 3
"""For a first guess of a text's tokens, on the high side of what tokenizers do; the true count replaces it."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """max_queued_tokens: tokens accepted and not yet answered; over it a request is answered `overloaded`."""

    max_batch_tokens: int = 16384
    max_queued_tokens: int = 262144
    patience_s: float = 1.0
    encode_threads: int = 1


@dataclass(slots=True)
class EngineStats:
    """Counters since the start. tokens_per_s: of recent forwards, 0 before the first."""

    num_batches: int = 0
    num_requests: int = 0
    num_tokens: int = 0
    forward_s: float = 0.0
    tokens_per_s: float = 0.0
    failed_forwards_in_a_row: int = 0


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request's share of the queue. tokens: a guess until it is encoded."""

    tokens: int


@dataclass(slots=True, eq=False)
class _Item:
    encoded: Encoded
    waiting: Waiting
    reply: asyncio.Future[ScoreResponse] = field(repr=False)


class ScoringEngine:
    """Bound to the event loop it is started on. `start`, then `score` from any task, then `aclose`."""

    def __init__(
        self,
        scorer: Scorer,
        limits: EngineLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scorer, self.limits, self.stats = scorer, limits or EngineLimits(), EngineStats()
        self._clock = clock
        self._batch_limits = BatchLimits(self.limits.max_batch_tokens, self.limits.patience_s)
        self._encoders = ThreadPoolExecutor(self.limits.encode_threads, thread_name_prefix="rmray-encode")
        self._device = ThreadPoolExecutor(1, thread_name_prefix="rmray-forward")
        self._items: dict[int, _Item] = {}  # those that wait
        self._open: set[asyncio.Future[ScoreResponse]] = set()  # those and the ones in the forward
        self._keys = itertools.count()
        self._queued_tokens = 0
        self._arrived = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Start batching on the running event loop."""
        if self._runner is None:
            self._runner = asyncio.get_running_loop().create_task(self._run(), name="rmray-engine")

    @property
    def queued_tokens(self) -> int:
        """Tokens accepted and not yet answered."""
        return self._queued_tokens

    @property
    def num_waiting(self) -> int:
        """Encoded requests that wait for a forward."""
        return sum(not item.reply.done() for item in self._items.values())

    def check(self) -> None:
        """Raise RuntimeError when the engine can't answer any more."""
        if self._runner is None or self._runner.done():
            cause = self._runner.exception() if self._runner and not self._runner.cancelled() else None
            raise RuntimeError("the engine's batching task has stopped") from cause

    async def score(self, requests: Sequence[ScoreRequest], *, timeout_s: float = math.inf) -> list[ScoreResponse]:
        """Responses in the order of the requests; faults stand in them as ScoreFailure. Cancelling frees the slots.

        timeout_s: what has not begun its forward by then is answered `deadline`.
        """
        deadline_s = self._clock() + timeout_s
        tickets = [self._admit(request) for request in requests]
        try:
            admitted = [r for r, ticket in zip(requests, tickets, strict=True) if isinstance(ticket, _Ticket)]
            encoded = iter(await self._encode(admitted) if admitted else [])
            answers: list[ScoreResponse | asyncio.Future[ScoreResponse]] = []
            for request, ticket in zip(requests, tickets, strict=True):
                if isinstance(ticket, _Ticket):
                    answers.append(self._enqueue(request, ticket, next(encoded), deadline_s))
                else:
                    answers.append(failed(request, ticket))
            return await self._collect(answers)
        finally:
            self._queued_tokens -= sum(t.tokens for t in tickets if isinstance(t, _Ticket))

    async def aclose(self, *, drain_s: float = 30.0) -> None:
        """Refuse new requests, answer those accepted (for at most drain_s), stop the threads."""
        self._closing = True
        if self._open:
            await asyncio.wait(self._open, timeout=drain_s)
        self.stop()
        if self._runner is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    def stop(self) -> None:
        """Stop at once; what still waits is answered `replica_lost`."""
        self._closing = True
        if self._runner is not None and not self._runner.get_loop().is_closed():
            self._runner.cancel()
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._device.shutdown(wait=False, cancel_futures=True)

    # Into the queue

    def _admit(self, request: ScoreRequest) -> _Ticket | ScoreFailure:
        tokens = estimated_tokens(request)
        if self._closing:
            return ScoreFailure(code="shutting_down", message="the replica is shutting down; ask again")
        # An empty queue takes a request of any size, or it could never be answered.
        if self._queued_tokens and self._queued_tokens + tokens > self.limits.max_queued_tokens:
            rate = self.stats.tokens_per_s
            wait_s = round(self._queued_tokens / rate, 2) if rate else 1.0
            return ScoreFailure(
                code="overloaded",
                message=f"{self._queued_tokens} tokens wait, the limit is {self.limits.max_queued_tokens}; "
                f"ask again in {wait_s} s",
                retry_after_s=wait_s,
            )
        self._queued_tokens += tokens
        return _Ticket(tokens)

    async def _encode(self, requests: list[ScoreRequest]) -> list[Encoded | ScoreFailure]:
        return await asyncio.get_running_loop().run_in_executor(self._encoders, _encode_all, self.scorer, requests)

    def _enqueue(
        self, request: ScoreRequest, ticket: _Ticket, encoded: Encoded | ScoreFailure, deadline_s: float
    ) -> ScoreResponse | asyncio.Future[ScoreResponse]:
        tokens = 0 if isinstance(encoded, ScoreFailure) else encoded.num_tokens
        self._queued_tokens += tokens - ticket.tokens
        ticket.tokens = tokens
        if isinstance(encoded, ScoreFailure):
            return failed(request, encoded)
        if encoded.group is None:
            return self._decode(encoded, np.zeros(0))
        if self._runner is None or self._runner.done():
            return failed(request, ScoreFailure(code="replica_lost", message="the engine has stopped"))
        waiting = Waiting(next(self._keys), encoded.num_tokens, encoded.group.max_path_len, self._clock(), deadline_s)
        item = _Item(encoded, waiting, asyncio.get_running_loop().create_future())
        self._items[waiting.key] = item
        self._open.add(item.reply)
        item.reply.add_done_callback(self._open.discard)
        self._arrived.set()
        return item.reply

    async def _collect(self, answers: list[ScoreResponse | asyncio.Future[ScoreResponse]]) -> list[ScoreResponse]:
        futures = [a for a in answers if isinstance(a, asyncio.Future)]
        try:
            if futures:
                await asyncio.wait(futures)
        finally:
            for future in futures:
                future.cancel()
        return [a.result() if isinstance(a, asyncio.Future) else a for a in answers]

    # Out of the queue

    async def _run(self) -> None:
        """Plan, forward, reply, for ever. Replies are made while the next forward runs."""
        loop = asyncio.get_running_loop()
        batch: list[_Item] = []
        try:
            while True:
                await self._arrived.wait()
                batch = self._take_batch()
                if not batch:
                    continue
                raw = await loop.run_in_executor(self._device, self._forward, [item.encoded for item in batch])
                loop.call_soon(self._reply, batch, raw)
                batch = []
        finally:
            lost = ScoreFailure(code="replica_lost", message="the engine has stopped")
            for item in [*batch, *self._items.values()]:
                if not item.reply.done():
                    item.reply.set_result(failed(item.encoded.request, lost))

    def _take_batch(self) -> list[_Item]:
        self._items = {key: item for key, item in self._items.items() if not item.reply.done()}  # not the cancelled
        plan = plan_batch((i.waiting for i in self._items.values()), self._batch_limits, self._clock())
        for key in plan.expired:
            item = self._items.pop(key)
            late = ScoreFailure(code="deadline", message="the deadline passed before the forward began")
            item.reply.set_result(failed(item.encoded.request, late))
        batch = [self._items.pop(key) for key in plan.batch]
        if not self._items:
            self._arrived.clear()
        return batch

    def _forward(self, batch: list[Encoded]) -> list[RawScores | ScoreFailure]:
        """On the forward thread: one forward, and where it fails, one a request, to find whose fault it was."""
        start_s = time.perf_counter()
        results = _forward_or_split(self.scorer, batch)
        took_s = time.perf_counter() - start_s
        tokens = sum(e.num_tokens for e in batch)
        stats = self.stats
        stats.num_batches += 1
        stats.num_requests += len(batch)
        stats.num_tokens += tokens
        stats.forward_s += took_s
        if all(isinstance(r, ScoreFailure) for r in results):
            stats.failed_forwards_in_a_row += 1
        else:
            stats.failed_forwards_in_a_row = 0
            rate = tokens / max(took_s, 1e-9)
            stats.tokens_per_s = rate if not stats.tokens_per_s else 0.8 * stats.tokens_per_s + 0.2 * rate
        return results

    def _reply(self, batch: list[_Item], raw: list[RawScores | ScoreFailure]) -> None:
        for item, scores in zip(batch, raw, strict=True):
            if item.reply.done():  # cancelled: nobody waits
                continue
            if isinstance(scores, ScoreFailure):
                item.reply.set_result(failed(item.encoded.request, scores))
            else:
                item.reply.set_result(self._decode(item.encoded, scores))

    def _decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        try:
            response = self.scorer.decode(encoded, raw)
            if len(response.results) != len(encoded.slots):
                raise RuntimeError("decode gave another number of results than there are completions")
        except Exception as error:
            return failed(encoded.request, _failure(error, "decode_failed"))
        return response


def failed(request: ScoreRequest, failure: ScoreFailure) -> ScoreResponse:
    """The response to a request of which no completion could be scored."""
    return ScoreResponse(results=(failure,) * len(request.completions), id=request.id)


def estimated_tokens(request: ScoreRequest) -> int:
    """Tokens a request may cost, from its characters; of token ids their number."""
    return sum(
        len(content.ids) if isinstance(content, TokenIds) else math.ceil(num_chars(content) / CHARS_PER_TOKEN)
        for content in (request.prompt, *request.completions)
    )


def _encode_all(scorer: Scorer, requests: list[ScoreRequest]) -> list[Encoded | ScoreFailure]:
    """On an encode thread: all at once, and where that fails, one by one, to find whose fault it was."""
    try:
        encoded = scorer.encode(requests)
        if len(encoded) != len(requests):
            raise RuntimeError("encode gave another number of results than there are requests")
    except BaseException as error:  # a panic in the tokenizer's Rust is no Exception, and this is no main thread
        if len(requests) == 1:
            return [_failure(error, "encode_failed")]
        return [_encode_all(scorer, [r])[0] for r in requests]
    return list(encoded)


def _forward_or_split(scorer: Scorer, batch: list[Encoded]) -> list[RawScores | ScoreFailure]:
    try:
        raw = scorer.forward(batch)
        want = [e.group.num_completions if e.group else 0 for e in batch]
        if [len(r) for r in raw] != want:
            raise RuntimeError("forward gave another number of scores than there are paths")
    except BaseException as error:
        if len(batch) == 1:
            return [_failure(error, "forward_failed")]
        return [_forward_or_split(scorer, [e])[0] for e in batch]
    return list(raw)


def _failure(error: BaseException, code: str) -> ScoreFailure:
    """What the caller is told. Another's exception may quote the request's text: neither told nor logged."""
    if isinstance(error, RequestError):
        return ScoreFailure(code=error.code, message=str(error))
    if isinstance(error, RmrayError):
        return ScoreFailure(code=getattr(error, "code", code), message=str(error))
    logger.error("%s: %s\n%s", code, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return ScoreFailure(code=code, message=f"{type(error).__name__} in the scorer; see the replica's log")
