"""The learning rate as a pure function of the step. Called by the loop before every optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

MAX_WARMUP_STEPS = 100


def num_warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Steps of linear warm-up: a share of the run, rounded up, at most 100 steps."""
    return min(math.ceil(warmup_ratio * total_steps), MAX_WARMUP_STEPS)


def learning_rate(step: int, *, total_steps: int, peak: float, warmup_ratio: float, shape: str) -> float:
    """The rate of step `step` (from 0) of `total_steps`.

    Warm-up step s of W runs at peak x (s + 1) / W, so that no step has rate 0; then `linear` falls towards 0 after the
    last step, `cosine` follows half a cosine, and `constant` stays.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside 0..{total_steps - 1}")
    warmup = num_warmup_steps(total_steps, warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (total_steps - warmup)
    return peak * _DECAYS[shape](progress)


_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
}
