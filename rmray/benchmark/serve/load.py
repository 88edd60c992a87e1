"""Ask as callers do: so many at once (closed loop), or whenever the schedule says (open loop). Called by `callers`.

Ray, HTTP and models are behind `call`; the clock is injected.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

Call = Callable[[int], Awaitable[int]]
"""Asks for the i-th request; how many completions were scored."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One request. asked_s: when it went, of an open loop when it was meant to go, however late it went."""

    asked_s: float
    answered_s: float
    completions: int

    @property
    def latency_s(self) -> float:
        return self.answered_s - self.asked_s


@dataclass(frozen=True, slots=True)
class Loop:
    """All replies, and the window that counts."""

    replies: tuple[Reply, ...]
    start_s: float
    end_s: float


async def closed_loop(
    call: Call, *, callers: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Loop:
    """`callers` ask one request after the other. The window of `seconds` begins once each has had an answer, so that
    the queue is as long as it stays; what is in flight at its end is answered before this returns."""
    numbers, replies = itertools.count(), list[Reply]()
    cold, start_s, end_s = callers, math.nan, math.inf

    async def caller() -> None:
        nonlocal cold, start_s, end_s
        fresh = True
        while clock() < end_s:
            asked_s = clock()
            completions = await call(next(numbers))
            replies.append(Reply(asked_s, clock(), completions))
            cold -= fresh
            if fresh and not cold:
                start_s = clock()
                end_s = start_s + seconds
            fresh = False

    await _all([asyncio.ensure_future(caller()) for _ in range(callers)])
    return Loop(tuple(replies), start_s, end_s)


async def open_loop(
    call: Call,
    arrivals_s: Sequence[float],
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Loop:
    """A request at each of `arrivals_s`, whether or not those before it are answered. Latencies count from there: what
    a busy server, or a busy caller, keeps waiting is not left out."""
    begin_s = clock()

    async def ask(number: int, due_s: float) -> Reply:
        completions = await call(number)
        return Reply(due_s, clock(), completions)

    asked: list[asyncio.Future[Reply]] = []
    for number, arrival_s in enumerate(arrivals_s):
        due_s = begin_s + arrival_s
        if (left_s := due_s - clock()) > 0:
            await sleep(left_s)
        asked.append(asyncio.ensure_future(ask(number, due_s)))
    replies = await _all(asked)
    return Loop(tuple(replies), begin_s, max((reply.answered_s for reply in replies), default=begin_s))


def poisson_arrivals(per_s: float, *, most: int, seconds: float, seed: int) -> tuple[float, ...]:
    """Times from 0 of a Poisson process of `per_s`, at most so many and not after `seconds`; at least one."""
    waits_s = np.random.default_rng(seed).exponential(1 / per_s, most)
    arrivals_s = np.cumsum(waits_s)
    return tuple(float(t) for i, t in enumerate(arrivals_s) if i == 0 or t <= seconds)


async def _all(tasks: Sequence[asyncio.Future[T]]) -> list[T]:
    """What all give; the first that fails cancels the others."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
