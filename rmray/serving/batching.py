"""Plan which waiting requests make the next forward. No tensors, no clock of its own. Called by `engine`."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """One encoded request as the planner sees it: a whole group, never split.

    key: unique, ascending with arrival. num_tokens: what its forward computes. max_path_len: tokens of its longest
    path. arrived_s, deadline_s: on the caller's clock. prompt: what tells prompts apart, where the requests of one
    prompt share its forward; prompt_tokens: of num_tokens, those that all but the first of them save.
    """

    key: int
    num_tokens: int
    max_path_len: int
    arrived_s: float
    deadline_s: float = math.inf
    prompt: Hashable = None
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """max_batch_tokens: tokens of one forward. patience_s: after so long, or where its deadline is no further away, a
    request goes in order of arrival."""

    max_batch_tokens: int
    patience_s: float = 1.0


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Keys of the next forward, and keys whose deadline has passed."""

    batch: tuple[int, ...]
    expired: tuple[int, ...]


def plan_batch(waiting: Iterable[Waiting], limits: BatchLimits, now_s: float) -> BatchPlan:
    """The next batch under the token budget.

    The oldest is always in it, even where it alone is over the budget, so that a request waits for at most as many
    batches as there were requests before it. Then come those that are urgent, oldest first, then those of the oldest's
    own prompt, then those nearest in length to it: like lengths waste little where a kernel pads. What does not fit is
    passed over.
    """
    alive: list[Waiting] = []
    expired: list[int] = []
    for w in waiting:
        if w.deadline_s <= now_s:
            expired.append(w.key)
        else:
            alive.append(w)
    if not alive:
        return BatchPlan((), tuple(expired))
    oldest = min(alive, key=_arrival)
    batch, total, prompts = [oldest.key], oldest.num_tokens, {oldest.prompt}
    for w in sorted(alive, key=lambda w: _turn(w, oldest, limits, now_s)):
        cost = w.num_tokens - (w.prompt_tokens if w.prompt in prompts else 0)
        if w is not oldest and total + cost <= limits.max_batch_tokens:
            batch.append(w.key)
            prompts.add(w.prompt)
            total += cost
    return BatchPlan(tuple(batch), tuple(expired))


def _arrival(w: Waiting) -> tuple[float, int]:
    return w.arrived_s, w.key


def _turn(w: Waiting, oldest: Waiting, limits: BatchLimits, now_s: float) -> tuple[float, float, int]:
    if now_s - w.arrived_s >= limits.patience_s or w.deadline_s - now_s <= limits.patience_s:
        return (-2.0, *_arrival(w))
    shares = w.prompt is not None and w.prompt == oldest.prompt
    return (-1.0 if shares else float(abs(w.max_path_len - oldest.max_path_len)), *_arrival(w))
