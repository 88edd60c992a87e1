"""Run one Scorer at the speed of its forward: encode on threads, forward on one thread, replies on the loop.

Called by `app.replica`, one engine a replica; knows nothing of Ray. Whatever waits when the device becomes idle makes
the next batch (`batching`). A request that fails is answered with ScoreFailure for each of its completions and never
fails another.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from rmray.data.group import TokenGroup
from rmray.models.scorer import Encoded, RawScores, Scorer
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, estimated_tokens
from rmray.serving.batching import BatchLimits, Waiting, plan_batch
from rmray.serving.faults import decode_one, encode_each, failed
from rmray.serving.forwards import EngineStats, Forward, run_forward
from rmray.serving.observed import BatchObserver, seen_batch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """max_queued_tokens: tokens accepted and not yet answered; over it a request is answered `overloaded`, and one that
    alone has more `too_many_tokens`. A call is encoded in parts of about max_batch_tokens."""

    max_batch_tokens: int = 16384
    max_queued_tokens: int = 262144
    patience_s: float = 1.0
    encode_threads: int = 1


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
        observer: BatchObserver | None = None,
    ) -> None:
        self.scorer, self.limits, self.stats = scorer, limits or EngineLimits(), EngineStats()
        self._clock, self._observer = clock, observer
        self._batch_limits = BatchLimits(self.limits.max_batch_tokens, self.limits.patience_s)
        self._encoders = ThreadPoolExecutor(self.limits.encode_threads, thread_name_prefix="rmray-encode")
        self._device = ThreadPoolExecutor(1, thread_name_prefix="rmray-forward")
        self._items: dict[int, _Item] = {}  # those that wait
        self._calls: set[asyncio.Future[None]] = set()  # accepted and not yet answered; done with their call
        self._keys = itertools.count()
        self._queued_tokens = 0
        self._arrived = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closing = self._stopped = False

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
        call = asyncio.get_running_loop().create_future()
        self._calls.add(call)
        tickets = [self._admit(request) for request in requests]
        answers: dict[int, ScoreResponse | asyncio.Future[ScoreResponse]] = {
            i: failed(requests[i], ticket) for i, ticket in enumerate(tickets) if isinstance(ticket, ScoreFailure)
        }
        admitted = {i: ticket for i, ticket in enumerate(tickets) if isinstance(ticket, _Ticket)}
        try:
            for part in _parts(admitted, self.limits.max_batch_tokens):
                encoded = await self._encode([requests[i] for i in part], deadline_s)
                for i, one in zip(part, encoded, strict=True):
                    answers[i] = self._enqueue(requests[i], admitted[i], one, deadline_s)
            if tokens := sum(ticket.tokens for ticket in admitted.values()):
                self.stats.count_call(tokens)
            # One after the other: no reply is an exception, and `asyncio.wait` takes a sixth of what a call of one
            # request costs the loop.
            responses = [await a if isinstance(a, asyncio.Future) else a for _, a in sorted(answers.items())]
            self.stats.failures.update(x.code for r in responses for x in r.results if isinstance(x, ScoreFailure))
            return responses
        finally:
            for answer in answers.values():
                if isinstance(answer, asyncio.Future):
                    answer.cancel()
            self._queued_tokens -= sum(ticket.tokens for ticket in admitted.values())
            self._calls.discard(call)
            call.set_result(None)

    async def between_forwards(self, work: Callable[[], T]) -> T:
        """Run `work` on the forward thread as soon as the forward that runs is done, however long the queue is."""
        return await asyncio.get_running_loop().run_in_executor(self._device, work)

    async def aclose(self, *, drain_s: float = 30.0) -> None:
        """Refuse new requests, answer those accepted (for at most drain_s), stop the threads."""
        self._closing = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=drain_s)
        self.stop()
        if self._runner is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    def stop(self) -> None:
        """Stop at once; what still waits is answered `replica_lost`."""
        self._closing = self._stopped = True
        if self._runner is not None and not self._runner.get_loop().is_closed():
            self._runner.cancel()
        self._encoders.shutdown(wait=False)  # what is in its queue is answered, without being encoded
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

    async def _encode(self, requests: list[ScoreRequest], deadline_s: float) -> list[Encoded | ScoreFailure]:
        def encode() -> list[Encoded | ScoreFailure]:
            if self._stopped:
                return [_lost()] * len(requests)
            if self._clock() >= deadline_s:  # nobody waits for it any more
                return [_late()] * len(requests)
            return encode_each(self.scorer, requests)

        if self._stopped:
            return encode()
        return await asyncio.get_running_loop().run_in_executor(self._encoders, encode)

    def _enqueue(
        self, request: ScoreRequest, ticket: _Ticket, encoded: Encoded | ScoreFailure, deadline_s: float
    ) -> ScoreResponse | asyncio.Future[ScoreResponse]:
        tokens = 0 if isinstance(encoded, ScoreFailure) else encoded.num_tokens
        self._queued_tokens += tokens - ticket.tokens
        ticket.tokens = tokens
        if isinstance(encoded, ScoreFailure):
            return failed(request, encoded)
        if encoded.group is None:
            return decode_one(self.scorer, encoded, np.zeros(0))
        if tokens > self.limits.max_queued_tokens:
            too_many = f"the request has {tokens} tokens, {self.limits.max_queued_tokens} are allowed"
            return failed(request, ScoreFailure(code="too_many_tokens", message=f"{too_many}; send it in parts"))
        if self._runner is None or self._runner.done():
            return failed(request, _lost())
        item = _Item(encoded, self._waiting(encoded.group, deadline_s), asyncio.get_running_loop().create_future())
        self._items[item.waiting.key] = item
        self._arrived.set()
        return item.reply

    def _waiting(self, group: TokenGroup, deadline_s: float) -> Waiting:
        prompt, prompt_tokens = None, 0
        if getattr(self.scorer, "shares_prompts", False):
            prompt_tokens = min(len(group.prefix), *group.prompt_lens)
            prompt = group.prefix[:prompt_tokens].tobytes() or None
        key, now_s = next(self._keys), self._clock()
        return Waiting(key, group.num_tokens, group.max_path_len, now_s, deadline_s, prompt, prompt_tokens)

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
                begun_s = self._clock()
                encoded = [item.encoded for item in batch]
                done = await loop.run_in_executor(self._device, run_forward, self.scorer, encoded, self.stats)
                loop.call_soon(self._reply, batch, done.results)
                if self._observer is not None:
                    loop.call_soon(self._tell, self._observer, batch, done, begun_s)
                batch = []
        finally:
            for item in [*batch, *self._items.values()]:
                if not item.reply.done():
                    item.reply.set_result(failed(item.encoded.request, _lost()))

    def _take_batch(self) -> list[_Item]:
        self._items = {key: item for key, item in self._items.items() if not item.reply.done()}  # not the cancelled
        plan = plan_batch((i.waiting for i in self._items.values()), self._batch_limits, self._clock())
        for key in plan.expired:
            item = self._items.pop(key)
            item.reply.set_result(failed(item.encoded.request, _late()))
        batch = [self._items.pop(key) for key in plan.batch]
        if not self._items:
            self._arrived.clear()
        return batch

    def _tell(self, observer: BatchObserver, batch: list[_Item], done: Forward, begun_s: float) -> None:
        wait_s = begun_s - min(item.waiting.arrived_s for item in batch)
        encoded = [item.encoded for item in batch]
        observer.batch(seen_batch(encoded, done.tokens, forward_s=done.took_s, oldest_wait_s=wait_s))

    def _reply(self, batch: list[_Item], raw: list[RawScores | ScoreFailure]) -> None:
        for item, scores in zip(batch, raw, strict=True):
            if item.reply.done():  # cancelled: nobody waits
                continue
            if isinstance(scores, ScoreFailure):
                item.reply.set_result(failed(item.encoded.request, scores))
            else:
                item.reply.set_result(decode_one(self.scorer, item.encoded, scores))


def _parts(tickets: dict[int, _Ticket], max_tokens: int) -> Iterator[list[int]]:
    """Numbers of consecutive requests of about `max_tokens` together: the first are in the forward while the next are
    tokenised."""
    part: list[int] = []
    total = 0
    for i, ticket in tickets.items():
        part.append(i)
        total += ticket.tokens
        if total >= max_tokens:
            yield part
            part, total = [], 0
    if part:
        yield part


def _late() -> ScoreFailure:
    return ScoreFailure(code="deadline", message="the deadline passed before the forward began")


def _lost() -> ScoreFailure:
    return ScoreFailure(code="replica_lost", message="the engine has stopped")
