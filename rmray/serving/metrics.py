"""What is measured of served models: every metric by name, and what of it a look at a replica gives. No Ray.

Called by `app.metrics`, which hands the readings to Ray. Ray puts `ray_` before a name and `_total` behind a counter's.
A metric's labels are a handful of values each: never an id, a text or a path that a client chose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rmray.metrics.drift import ReferenceBins
from rmray.serving.observed import Seen
from rmray.serving.window import QUANTILES, RewardFigures

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Bounds of every histogram of seconds: from a forward of a tiny model to the longest deadline anybody waits for."""
TOKENS = (64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131072.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """labels: besides those that all metrics of the table have. bounds: of a histogram's buckets."""

    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


MODEL_LABELS = ("model", "version")
"""Of every metric of REPLICA: the name it is served under, and the model version that stands in its answers."""

REPLICA = {
    "rmray_queue_tokens": Metric("gauge", "Tokens accepted and not yet answered."),
    "rmray_queue_requests": Metric("gauge", "Tokenised requests that wait for a forward."),
    "rmray_calls": Metric("counter", "Calls answered."),
    "rmray_requests": Metric("counter", "Requests in these calls: a prompt with its completions each."),
    "rmray_completions": Metric("counter", "Completions in these requests."),
    "rmray_unfinished": Metric("counter", "Completions that were cut off by the sampler."),
    "rmray_failures": Metric("counter", "Completions without a score, by why.", ("code",)),
    "rmray_call_seconds": Metric(
        "histogram", "From the arrival of a call that is not turned away to its answer.", (), SECONDS
    ),
    "rmray_wait_seconds": Metric("histogram", "Wait of each batch's oldest request for its forward.", (), SECONDS),
    "rmray_forward_seconds": Metric("histogram", "Of each forward.", (), SECONDS),
    "rmray_batch_tokens": Metric("histogram", "Tokens that each forward computed.", (), TOKENS),
    "rmray_batches": Metric("counter", "Forwards."),
    "rmray_batched_requests": Metric("counter", "Requests in these forwards."),
    "rmray_batched_tokens": Metric("counter", "Tokens of these requests as the queue counts them, each prompt once."),
    "rmray_forward_busy_seconds": Metric("counter", "Seconds in forwards."),
    "rmray_tokens_asked": Metric("counter", "Tokens of completions with their prompts, each whole."),
    "rmray_tokens_computed": Metric("counter", "Tokens that went through the model, padding among them."),
    "rmray_tokens_padding": Metric("counter", "Padding that went through the model."),
    "rmray_rewards": Metric("counter", "Rewards between two quantiles of the reference, by the upper.", ("upto",)),
    "rmray_reward_window": Metric("gauge", "Rewards in the window of the gauges below."),
    "rmray_reward_mean": Metric("gauge", "Mean reward: the shift in standard deviations of the reference."),
    "rmray_reward_std": Metric("gauge", "Standard deviation of rewards: the spread over that of the reference."),
    "rmray_reward_quantile": Metric("gauge", "Quantiles of rewards.", ("quantile",)),
    "rmray_reward_stability_index": Metric("gauge", "Population stability index against the reference."),
    "rmray_reward_outside_ratio": Metric("gauge", "Share of rewards beyond all of the reference.", ("side",)),
}
GATEWAY = {
    "rmray_http_requests": Metric("counter", "HTTP requests, by route and status.", ("route", "status")),
    "rmray_http_seconds": Metric("histogram", "From an HTTP request to its answer.", ("route",), SECONDS),
    "rmray_http_retries": Metric("counter", "Times that the gateway asked again, by why.", ("code",)),
}


class Reading(NamedTuple):
    """What to add to a counter, to set a gauge to, or to put into a histogram."""

    metric: str
    value: float
    labels: dict[str, str]


def exported_name(name: str, metric: Metric) -> str:
    """The name under which Prometheus knows it (of a histogram, what its `_bucket`, `_count` and `_sum` begin with)."""
    return f"ray_{name}_total" if metric.kind == "counter" else f"ray_{name}"


def read_seen(seen: Seen) -> Iterator[Reading]:
    """What came together since the last look."""
    for batch in seen.batches:
        yield Reading("rmray_wait_seconds", batch.oldest_wait_s, {})
        yield Reading("rmray_forward_seconds", batch.forward_s, {})
        yield Reading("rmray_batch_tokens", batch.computed_tokens, {})
    for took_s in seen.calls_s:
        yield Reading("rmray_call_seconds", took_s, {})
    counts = {
        "rmray_calls": len(seen.calls_s),
        "rmray_requests": seen.num_requests,
        "rmray_completions": seen.num_completions,
        "rmray_unfinished": seen.num_unfinished,
        "rmray_batches": len(seen.batches),
        "rmray_batched_requests": sum(b.num_requests for b in seen.batches),
        "rmray_batched_tokens": sum(b.queued_tokens for b in seen.batches),
        "rmray_forward_busy_seconds": sum(b.forward_s for b in seen.batches),
        "rmray_tokens_asked": sum(b.asked_tokens for b in seen.batches),
        "rmray_tokens_computed": sum(b.computed_tokens for b in seen.batches),
        "rmray_tokens_padding": sum(b.padding_tokens for b in seen.batches),
    }
    for name, count in counts.items():
        if count:  # nothing to add, and Ray refuses it
            yield Reading(name, count, {})
    for code, count in seen.failures.items():
        yield Reading("rmray_failures", count, {"code": code})


def read_bins(bins: ReferenceBins, rewards: Sequence[float]) -> Iterator[Reading]:
    """How many of the rewards lie between two quantiles of the reference."""
    for upper, count in zip(bins.upper_B.tolist(), bins.counts(rewards).tolist(), strict=True):
        if count:
            yield Reading("rmray_rewards", count, {"upto": f"{upper:g}"})


def read_rewards(figures: RewardFigures) -> Iterator[Reading]:
    """The gauges of the window. Told at every look: Ray forgets a gauge that nobody sets any more."""
    yield Reading("rmray_reward_window", figures.num, {})
    yield Reading("rmray_reward_mean", figures.mean, {})
    yield Reading("rmray_reward_std", figures.std, {})
    for share, value in zip(QUANTILES, figures.quantiles, strict=True):
        yield Reading("rmray_reward_quantile", value, {"quantile": f"{share:g}"})
    if figures.drift is not None:
        yield Reading("rmray_reward_stability_index", figures.drift.stability_index, {})
        yield Reading("rmray_reward_outside_ratio", figures.drift.below, {"side": "below"})
        yield Reading("rmray_reward_outside_ratio", figures.drift.above, {"side": "above"})


def read_answer(route: str, status: int, took_s: float) -> Iterator[Reading]:
    """One HTTP request at the gateway. status: 0 where the client went away before the answer."""
    yield Reading("rmray_http_requests", 1, {"route": route, "status": str(status)})
    yield Reading("rmray_http_seconds", took_s, {"route": route})
