"""How a call finds a replica: Serve's power of two choices, one handle an actor. Called by `app`.

As `ray.serve._private.request_router` does it: of two replicas drawn at random the one with fewer calls under way, if
it has room; where neither has, again at once, and then after growing waits. A handle's calls go out in order, and it
draws for at most twice as many at once as there are replicas. Two things are simpler than there: the calls of one
handle that wait draw together, and a handle sees the lengths of queues as they are, not as it knew them seconds ago.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

from rmray.benchmark.scaling.events import Events
from rmray.benchmark.scaling.load import Call
from rmray.benchmark.scaling.replica import SimulatedReplica

FIRST_WAIT_S, WAIT_GROWTH, LONGEST_WAIT_S = 0.025, 2, 0.5
"""RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S, ..._BACKOFF_MULTIPLIER and ..._MAX_BACKOFF_S."""


def choose_replica(
    replicas: Sequence[SimulatedReplica], max_ongoing_requests: int, rng: random.Random
) -> SimulatedReplica | None:
    """The less busy of two at random, or None where both are full, or there is none."""
    n = len(replicas)
    if not n:
        return None
    if n > 2:
        i, j = int(rng.random() * n), int(rng.random() * (n - 1))
        first, second = replicas[i], replicas[j + (j >= i)]
    else:
        first, second = replicas[0], replicas[-1]
        if rng.random() < 0.5:
            first, second = second, first
    if second.num_ongoing < first.num_ongoing:
        first = second
    return first if first.num_ongoing < max_ongoing_requests else None


class Handle:
    """One client's router. replicas: the running ones, as they are. accept: told which replica the call goes to. late:
    told of a call whose deadline passed before."""

    def __init__(
        self,
        events: Events,
        replicas: Sequence[SimulatedReplica],
        *,
        max_ongoing_requests: int,
        rng: random.Random,
        accept: Callable[[Handle, SimulatedReplica, Call], None],
        late: Callable[[Call], None],
    ) -> None:
        self._events, self._replicas, self._rng = events, replicas, rng
        self._max_ongoing, self._accept, self._late = max_ongoing_requests, accept, late
        self._pending: deque[Call] = deque()
        self._waits = False  # until its next draws

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def send(self, call: Call) -> None:
        """Find the call a replica, now or later."""
        self._pending.append(call)
        self._draw(2)
        if self._pending and not self._waits:
            self._wait(0)

    def _draw(self, times: int) -> None:
        """Draw for the calls that come first, so often for the last of them."""
        while self._pending and times:
            if self._pending[0].deadline_s <= self._events.now_s:
                self._late(self._pending.popleft())
            elif replica := choose_replica(self._replicas, self._max_ongoing, self._rng):
                self._accept(self, replica, self._pending.popleft())
            elif all(replica.num_ongoing >= self._max_ongoing for replica in self._replicas):
                return
            else:
                times -= 1

    def _wait(self, waits: int) -> None:
        self._waits = True
        wait_s = min(FIRST_WAIT_S * WAIT_GROWTH ** min(waits, 10), LONGEST_WAIT_S)
        self._events.after(wait_s, self._again, waits + 1)

    def _again(self, waits: int) -> None:
        self._waits = False
        self._draw(min(len(self._pending), 2 * max(1, len(self._replicas))))
        if self._pending and not self._waits:
            self._wait(waits)
