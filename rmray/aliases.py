"""What a process knows of the aliases, and how seldom it asks for them. Used by the gateway (`serving`) and by
`RewardClient` (`client`), which may not import each other.

While calls go on, one question of this process waits at the alias actor, which answers it as soon as something else
answers for a name. So what is known is right without a look before each call, and nobody's call waits for a look.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rmray.config.serve import ALIAS_TTL_S, ALIAS_WATCH_S, ServedModel

Models = dict[str, ServedModel]


@dataclass(slots=True)
class _Watch:
    """A question that waits at the actor. due_s: past that it is lost. heard_s: when the answer came."""

    answer: Future[Models]
    due_s: float
    heard_s: float | None = None


class KnownAliases:
    """Every name and what answers for it, as far as this process knows. For any number of threads and event loops: what
    waits belongs to none of them.

    find: the alias actor's handle; may block, and is called again where what it gave does not answer.
    """

    def __init__(
        self,
        find: Callable[[], Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._find, self._clock, self._draw = find, clock, draw
        self._lock = threading.Lock()
        self._actor: Any = None
        self._known: Models | None = None
        self._known_s = 0.0
        self._watch: _Watch | None = None

    def trusted(self) -> Models | None:
        """What is known, without waiting; None where it may be old, and `ask` is to be called."""
        with self._lock:
            now_s = self._clock()
            self._hear(now_s)
            if self._known is None or (self._watch is None and now_s - self._known_s >= ALIAS_TTL_S):
                return None
            self._keep_watch(now_s)
            return self._known

    async def ask(self) -> Models:
        """What the actor says now. Raises what Ray does, and what `find` does."""
        with self._lock:
            asked_s = self._clock()
            self._hear(asked_s)
            actor, known = self._actor, self._known
        try:
            models: Models | None = None if actor is None else await actor.all.remote()
        except Exception:
            models = None  # it is gone, and another may be there
        if models is None:
            self._actor = None
            actor = await asyncio.to_thread(self._find)
            models = await actor.all.remote()
        with self._lock:
            self._actor = actor
            now_s = self._clock()
            self._hear(now_s)
            # What the watch has brought meanwhile may be newer. Where it is older, the next one is answered at once.
            if self._known is known:
                self._known, self._known_s = models, asked_s
            self._keep_watch(now_s)
        return models

    def _keep_watch(self, now_s: float) -> None:
        """Let a question for changes wait at the actor, where none does."""
        if self._watch is not None or self._actor is None:
            return
        # Drawn, so that processes that were told of a change at once do not all come back at once.
        wait_s = ALIAS_WATCH_S * (0.5 + 0.5 * self._draw())
        answer: Future[Models] = self._actor.changed.remote(self._known, wait_s).future()
        watch = self._watch = _Watch(answer, now_s + wait_s + ALIAS_TTL_S)

        def note_time(_: Future[Models]) -> None:
            watch.heard_s = self._clock()

        answer.add_done_callback(note_time)

    def _hear(self, now_s: float) -> None:
        """Take what the watch has brought, if it is over."""
        watch = self._watch
        if watch is None:
            return
        if watch.answer.done():
            self._watch = None
            if watch.answer.exception() is None:
                self._known, self._known_s = watch.answer.result(), watch.heard_s or now_s
        elif now_s >= watch.due_s:
            self._watch = None
