"""End a worker that gets nowhere, so that its run is started again. Started by `fit`; no Ray, no torch.

A rank that hangs (stopped, stuck in its storage, deadlocked) leaves the others waiting in a collective, and none of
them can tell. So every rank watches its own progress: those that wait end themselves, Ray Train sees them gone and
starts all workers again from the newest checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")

LOOKS_PER_TIMEOUT = 10
MAX_SECONDS_BETWEEN_LOOKS = 1.0


def beating(items: Iterable[Item], beat: Callable[[str], None], doing: str) -> Iterator[Item]:
    """The items, with a beat before each is used and before the next is fetched. doing: names the items."""
    for item in items:
        beat(doing)
        yield item
        beat(f"the data of {doing}")


class Watchdog:
    """Calls `on_hang(what was being done, seconds)` where `timeout_s` pass between two beats, and `on_notice(notice)`
    where `notice()` tells of a reason to leave. Neither is expected to return. Idle until the first beat."""

    def __init__(
        self,
        timeout_s: float,
        on_hang: Callable[[str, float], None],
        *,
        notice: Callable[[], str | None] = lambda: None,
        on_notice: Callable[[str], None] = lambda notice: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s, self._on_hang, self._notice, self._on_notice = timeout_s, on_hang, notice, on_notice
        self._clock = clock
        self._last: tuple[str, float] | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def beat(self, doing: str) -> None:
        """Tell that the loop goes on, and what comes next."""
        self._last = (doing, self._clock())

    def look(self) -> None:
        """Decide once; the thread does so several times a timeout."""
        notice = self._notice()
        if notice:
            self._on_notice(notice)
            return
        if self._last:
            doing, since_s = self._last
            waited_s = self._clock() - since_s
            if waited_s > self._timeout_s:
                self._on_hang(doing, waited_s)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(MAX_SECONDS_BETWEEN_LOOKS, self._timeout_s / LOOKS_PER_TIMEOUT)):
            self.look()
