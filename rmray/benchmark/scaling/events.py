"""A virtual clock and what happens on it. Called by all of `scaling`.

A heap and not simpy: whatever happens here is one callback at one time, without a process that waits in its middle. A
generator for each of them and a dependency would buy nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Events:
    """Callbacks in order of their time; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, when_s: float, act: Callable[..., None], *arguments: Any) -> None:
        """Call `act` at that time, or now where it has passed."""
        heapq.heappush(self._heap, (max(when_s, self.now_s), next(self._order), act, arguments))

    def after(self, delay_s: float, act: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now_s + delay_s, act, *arguments)

    def run_until(self, end_s: float) -> None:
        """Let everything happen that is due before `end_s`; the clock then stands there."""
        heap = self._heap
        while heap and heap[0][0] < end_s:
            self.now_s, _, act, arguments = heapq.heappop(heap)
            act(*arguments)
        self.now_s = end_s


def every(events: Events, period_s: float, act: Callable[[], None]) -> None:
    """Call `act` now and then again and again."""

    def again() -> None:
        act()
        events.after(period_s, again)

    again()
