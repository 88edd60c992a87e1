"""One replica on a virtual clock: admits and batches as `rmray.serving.engine` does. Called by `app`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.events import Events
from rmray.benchmark.scaling.load import Call
from rmray.serving.batching import BatchLimits, Waiting, plan_batch


class SimulatedReplica:
    """Accepts calls, runs one forward at a time over whatever waits when it becomes idle, answers.

    answer: told the call and the failure's code, or None.
    """

    def __init__(
        self,
        events: Events,
        cost: ForwardCost,
        limits: BatchLimits,
        *,
        max_queued_tokens: int,
        rng: random.Random,
        answer: Callable[[Call, str | None], None],
    ) -> None:
        self._events, self._cost, self._limits, self._rng, self._answer = events, cost, limits, rng, answer
        self._max_queued_tokens = max_queued_tokens
        self._waiting: dict[int, tuple[Waiting, Call]] = {}
        self._keys = itertools.count()
        self._busy = False
        self._tokens_per_s = 0.0
        self.num_ongoing = 0
        self.accepted_tokens = 0
        self.busy_s = 0.0
        self.num_batches = 0
        self.batches: list[tuple[Call, ...]] | None = None  # kept where somebody asks for them

    def accept(self, call: Call) -> float | None:
        """Queue the call, or give the seconds after which the client may ask again."""
        tokens = call.group.tokens
        if self.accepted_tokens and self.accepted_tokens + tokens > self._max_queued_tokens:
            return self.accepted_tokens / self._tokens_per_s if self._tokens_per_s else 1.0
        self.num_ongoing += 1
        self.accepted_tokens += tokens
        key, now_s = next(self._keys), self._events.now_s
        self._waiting[key] = Waiting(key, tokens, call.group.max_path_len, now_s, call.deadline_s), call
        if not self._busy:
            # The engine's loop hears of all that comes at one time before it makes a batch.
            self._busy = True
            self._events.after(0.0, self._forward)
        return None

    def _forward(self) -> None:
        plan = plan_batch((w for w, _ in self._waiting.values()), self._limits, self._events.now_s)
        late = [self._waiting.pop(key)[1] for key in plan.expired]
        batch = [self._waiting.pop(key)[1] for key in plan.batch]
        self._busy = bool(batch)
        if batch:
            tokens = sum(call.group.tokens for call in batch)
            seconds = self._cost.seconds(tokens, sum(call.group.pairs for call in batch)) * self._noise()
            self.num_batches += 1
            if self.batches is not None:
                self.batches.append(tuple(batch))
            self._events.after(seconds, self._finish, batch, tokens, seconds)
        for call in late:
            self._reply(call, "deadline")

    def _finish(self, batch: list[Call], tokens: int, seconds: float) -> None:
        self.busy_s += seconds
        rate = tokens / seconds
        self._tokens_per_s = 0.8 * self._tokens_per_s + 0.2 * rate if self._tokens_per_s else rate
        # As in the engine, the next forward begins before the answers to this one bring new calls.
        self._busy = False
        if self._waiting:
            self._forward()
        for call in batch:
            self._reply(call, None)

    def _reply(self, call: Call, failure: str | None) -> None:
        self.num_ongoing -= 1
        self.accepted_tokens -= call.group.tokens
        self._answer(call, failure)

    def _noise(self) -> float:
        return self._rng.choice(self._cost.errors) if self._cost.errors else 1.0
