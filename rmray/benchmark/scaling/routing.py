"""How a call finds a replica: Serve's power of two choices, one handle an actor. Called by `simulation`.

As `ray.serve._private.request_router` does it: of two replicas drawn at random the one with fewer calls under way, where
it has room; where neither has, again at once, and then after growing waits. A handle answers its calls in order and
draws for at most twice as many at once as there are replicas. What a handle remembers of queue lengths for some seconds
is left out: it sees them as they are.
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
SHUT_OUT_S = 0.1
"""So often a handle looks again where there is no replica at all; Serve tells it at once."""


def choose_replica(
    replicas: Sequence[SimulatedReplica], max_ongoing_requests: int, rng: random.Random
) -> SimulatedReplica | None:
    """The less busy of two at random, or None where both are full."""
    n = len(replicas)
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
        self._tasks = 0

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def send(self, call: Call) -> None:
        """Find the call a replica, now or later."""
        self._pending.append(call)
        if self._tasks < min(len(self._pending), 2 * max(1, len(self._replicas))):
            self._tasks += 1
            self._route(-1)

    def _route(self, attempt: int) -> None:
        """Route calls until none is left or no replica has room. attempt: waits so far; -1 before the first draw."""
        while self._pending:
            if self._pending[0].deadline_s <= self._events.now_s:
                self._late(self._pending.popleft())
                continue
            if not self._replicas:
                self._events.after(SHUT_OUT_S, self._route, -1)
                return
            replica = choose_replica(self._replicas, self._max_ongoing, self._rng)
            if replica is not None:
                attempt = -1
                self._accept(self, replica, self._pending.popleft())
            elif attempt < 0:
                attempt = 0
            else:
                wait_s = min(FIRST_WAIT_S * WAIT_GROWTH ** min(attempt, 10), LONGEST_WAIT_S)
                self._events.after(wait_s, self._route, attempt + 1)
                return
        self._tasks -= 1
