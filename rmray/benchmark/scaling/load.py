"""Who asks for rewards, and when: rollout actors in a closed loop, or calls as they come. Called by `simulation`.

A rollout actor does as `rmray.client.rollouts` does: it generates for a while, sends the groups of a step all at once,
one call each, waits for all of them, and goes on.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rmray.benchmark.scaling.events import Events
from rmray.benchmark.workloads import WORKLOADS, make_groups
from rmray.data.group import TokenGroup
from rmray.data.packing import measure_shapes
from rmray.errors import ConfigError

NUM_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class Group:
    """What a group of one prompt costs. tokens: of its forward, the prompt once. pairs: (query, key) pairs attended."""

    tokens: int
    pairs: int
    max_path_len: int
    completions: int


def measure_groups(groups: Sequence[TokenGroup]) -> list[Group]:
    """The costs of groups of token ids."""
    shapes = measure_shapes(
        np.array([len(g.prefix) for g in groups]),
        np.array([len(s) for g in groups for s in g.suffixes]),
        np.array([g.num_completions for g in groups]),
    )
    measured = zip(groups, shapes.tokens.tolist(), shapes.attended_N.tolist(), strict=True)
    return [Group(tokens, pairs, g.max_path_len, g.num_completions) for g, tokens, pairs in measured]


def draw_groups(workload: str, seed: int, *, num_groups: int = NUM_GROUPS) -> list[Group]:
    """Groups of a named workload that calls draw from. Raises ConfigError for a name that is none."""
    if workload not in WORKLOADS:
        raise ConfigError(f"{workload!r} is no workload", where="--workload", why=f"workloads: {', '.join(WORKLOADS)}")
    return measure_groups(make_groups(WORKLOADS[workload], num_groups, vocab_size=2, seed=seed))


@dataclass(slots=True, eq=False)
class Call:
    """One call of a client and what became of it. attempt: failures so far that a retry may mend. answered: told once,
    when it is over."""

    group: Group
    sent_s: float
    deadline_s: float
    answered: Callable[[Call], None]
    attempt: int = 0


class Profile(Protocol):
    """A load over time, between a low and a high one."""

    @property
    def starts_s(self) -> float | None:
        """When it rises from low to high at once; None where it does not."""

    def level(self, now_s: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Constant:
    high: float
    starts_s: float | None = None

    def level(self, now_s: float) -> float:
        return self.high


@dataclass(frozen=True, slots=True)
class Step:
    """Low, then high from `starts_s` to `ends_s`, then low again."""

    low: float
    high: float
    starts_s: float | None
    ends_s: float = math.inf

    def level(self, now_s: float) -> float:
        return self.high if (self.starts_s or 0.0) <= now_s < self.ends_s else self.low


@dataclass(frozen=True, slots=True)
class Sine:
    """From low at the start to high half a period later, and back."""

    low: float
    high: float
    period_s: float
    starts_s: float | None = None

    def level(self, now_s: float) -> float:
        return self.low + (self.high - self.low) * (1 - math.cos(2 * math.pi * now_s / self.period_s)) / 2


@dataclass(frozen=True, slots=True)
class Burst:
    """High for `lasts_s` after every `every_s`, else low."""

    low: float
    high: float
    every_s: float
    lasts_s: float

    @property
    def starts_s(self) -> float | None:
        return self.every_s

    def level(self, now_s: float) -> float:
        return self.high if now_s >= self.every_s and now_s % self.every_s < self.lasts_s else self.low


Send = Callable[[Call], None]


class RolloutActor:
    """One actor's loop. generate_s: on average, log-normal with `sigma`. It rests while it is not `active`."""

    def __init__(
        self,
        events: Events,
        send: Send,
        groups: Sequence[Group],
        *,
        groups_per_step: int,
        generate_s: float,
        sigma: float,
        timeout_s: float,
        call_s: float,
        rng: random.Random,
    ) -> None:
        self._events, self._send, self._groups, self._rng = events, send, groups, rng
        self._groups_per_step, self._timeout_s, self._call_s = groups_per_step, timeout_s, call_s
        self._generate_s, self._mu, self._sigma = generate_s, -(sigma**2) / 2, sigma
        self._open = 0
        self._resting = True
        self.active = False
        self.waited_s = self.generated_s = 0.0
        self._asked_s = 0.0

    def wake(self) -> None:
        """Begin to generate, somewhere in the middle of it, where it rests."""
        self.active = True
        if self._resting:
            self._resting = False
            self._events.after(self._rng.random() * self._generate_s, self._ask)

    def _ask(self) -> None:
        now_s = self._asked_s = self._events.now_s
        self._open = self._groups_per_step
        for _ in range(self._groups_per_step):
            self._send(Call(self._rng.choice(self._groups), now_s, now_s + self._timeout_s, self._answered))

    def _answered(self, call: Call) -> None:
        self._open -= 1
        if not self._open:
            self.waited_s += self._events.now_s + self._call_s - self._asked_s
            self._resting = not self.active
            if self.active:
                generate_s = self._generate_s * math.exp(self._mu + self._sigma * self._rng.gauss(0, 1))
                self.generated_s += generate_s
                self._events.after(self._call_s + generate_s, self._ask)


class Caller:
    """Asks again as soon as it is answered, for its groups in order, over and over."""

    def __init__(self, events: Events, send: Send, groups: Sequence[Group], call_s: float) -> None:
        self._events, self._send, self._groups, self._call_s = events, send, itertools.cycle(groups), call_s

    def ask(self) -> None:
        self._send(Call(next(self._groups), self._events.now_s, math.inf, self._answered))

    def _answered(self, call: Call) -> None:
        self._events.after(self._call_s, self.ask)


def set_active(actors: Sequence[RolloutActor], level: float) -> None:
    """Let the first so many actors be active, and the others rest once they have their rewards."""
    for place, actor in enumerate(actors):
        if place >= round(level):
            actor.active = False
        elif not actor.active:
            actor.wake()


def poisson_arrivals(profile: Profile, end_s: float, rng: random.Random) -> Iterable[float]:
    """Times of arrivals at the profile's rate, by thinning those of its highest (Lewis and Shedler 1979)."""
    highest = max(profile.level(end_s * i / 1000) for i in range(1001))
    now_s = rng.expovariate(highest)
    while now_s < end_s:
        if rng.random() * highest < profile.level(now_s):
            yield now_s
        now_s += rng.expovariate(highest)
