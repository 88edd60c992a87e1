"""Figures of simulated runs, as a metrics file holds them: what the health suite replays.

Each pair's score gap is drawn around a mean that grows as the model learns; every figure is then computed from the
scores themselves, so that a curve has the noise of its batch size and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from rmray.metrics.intervals import clustered_interval
from rmray.training.health import HealthMonitor
from rmray.training.step import StepResult

WARMUP = 9


def step_result(step: int, **figures: Any) -> StepResult:
    """A sound step of 64 pairs, but for what `figures` says."""
    sound = {
        "epoch": 0, "lr": 1e-5, "loss": 0.6, "accuracy": 0.7, "margin": 0.4, "mean_chosen": 0.3, "mean_rejected": -0.1,
        "score_std": 1.0, "score_min": -2.0, "score_max": 2.0, "grad_norm": 1.0, "ties": 0, "pairs": 64, "units": 64,
        "comparisons": 64, "tokens": 6400, "row_ids_hash": "ab", "applied": True, "gap_max": 3.0,
    }  # fmt: skip
    return StepResult(step=step, **(sound | figures))


def evaluation(accuracy: float, half: float = 0.03) -> dict[str, float]:
    """Held-out figures with an interval of +- half."""
    return {
        "eval_loss": 0.6,
        "eval_accuracy": accuracy,
        "eval_accuracy_low": accuracy - half,
        "eval_accuracy_high": accuracy + half,
    }


def simulated_run(
    seed: int,
    *,
    num_steps: int = 300,
    batch: int | Callable[[int], int] = 64,
    top_accuracy_z: float = 0.6,
    learnt_by: float = 0.3,
    sharpness: float = 2.0,
    scale: Callable[[float], float] = lambda done: 1.0,
    memorised: Callable[[float], float] = lambda done: 0.0,
    evaluate_every: int = 25,
    held_out: int = 400,
) -> list[dict[str, Any]]:
    """Lines of a metrics file. `done` is the share of the run that is over.

    top_accuracy_z: normal quantile of the accuracy reached at the end (0.6: 0.73). learnt_by: share of the run after
    which 63% of it is reached. sharpness: std of gaps at the end. scale, memorised: factor on all scores, and what
    training pairs gain on held-out ones, in z.
    """
    rng = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    for step in range(num_steps):
        done = (step + 1) / num_steps
        learnt = 1 - np.exp(-done / learnt_by)
        width = (0.1 + sharpness * learnt) * scale(done)

        def scores(z: float, pairs: int, width: float = width) -> tuple[Any, Any]:
            gap = width * rng.normal(z, 1.0, pairs)
            middle = rng.normal(0.0, width, pairs)
            return middle + gap / 2, middle - gap / 2

        pairs = batch(step) if callable(batch) else batch
        chosen, rejected = scores(top_accuracy_z * learnt + memorised(done), pairs)
        lines.append({"step": step} | _figures(chosen, rejected))
        if (step + 1) % evaluate_every == 0:
            wins = np.greater(*scores(top_accuracy_z * learnt, held_out))
            interval = clustered_interval(wins, np.arange(held_out), resamples=400, bounds=(0.0, 1.0))
            lines.append(
                {
                    "step": step,
                    "eval_accuracy": float(wins.mean()),
                    "eval_accuracy_low": interval.low,
                    "eval_accuracy_high": interval.high,
                }
            )
    return lines


def _figures(chosen: Any, rejected: Any) -> dict[str, Any]:
    gap, both = chosen - rejected, np.concatenate([chosen, rejected])
    return {
        "loss": float(np.logaddexp(0, -gap).mean()),
        "accuracy": float((gap > 0).mean()),
        "margin": float(gap.mean()),
        "score_std": float(both.std()),
        "gap_max": float(np.abs(gap).max()),
        "pairs": len(gap),
    }


def replay(lines: Iterable[dict[str, Any]], monitor: HealthMonitor) -> Iterator[tuple[int, str]]:
    """(step, kind) of each warning that the lines of a metrics file give."""
    for line in lines:
        if "eval_accuracy" in line:
            found = monitor.after_evaluation(line["step"], line)
        else:
            found = monitor.after_step(step_result(**line))
        yield from ((w.step, w.kind) for w in found)
