"""The training loop: fetch a step, run it, tell the hooks. The same on one process and on every rank of many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rmray.data.shares import StepShare
from rmray.training.collate import collated
from rmray.training.engine import Engine
from rmray.training.objective import Objective
from rmray.training.schedule import learning_rate
from rmray.training.step import StepResult, train_step


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """num_steps: of the whole run, those done before a resume included. lr: peak learning rate."""

    num_steps: int
    objective: Objective
    lr: float
    warmup_ratio: float = 0.03
    schedule: str = "linear"
    pooling: str = "last"
    seed: int = 0


@dataclass(slots=True)
class Progress:
    """What a hook is told after a step. seconds: of the step, waiting for its data included.

    A hook that sets one of these is heard by the hooks after it: is_last, the run is complete with this step;
    interrupted, it ends here and is to be resumed; save_now, a checkpoint is wanted.
    """

    result: StepResult
    seconds: float
    is_last: bool
    interrupted: bool = False
    save_now: bool = False


class Hook(Protocol):
    """Called on every rank after every step, in the loop's order; may run collectives, as every rank calls it."""

    def __call__(self, engine: Engine, progress: Progress) -> None: ...


def run_loop(
    engine: Engine,
    shares: Iterable[StepShare],
    settings: LoopSettings,
    hooks: Sequence[Hook] = (),
    *,
    flag: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Train on the steps of `shares`, this rank's, which begin where the run stands.

    flag: asked before each step; where any rank's is True, the step's result is `flagged` on all.
    """
    rate = partial(
        learning_rate,
        total_steps=settings.num_steps,
        peak=settings.lr,
        warmup_ratio=settings.warmup_ratio,
        shape=settings.schedule,
    )
    start_s = clock()
    steps = collated(shares, settings.objective, pooling=settings.pooling, device=engine.ranks.device)
    for share, micro_batches in steps:
        result = train_step(
            engine,
            share,
            micro_batches,
            settings.objective,
            lr=rate(share.step),
            seed=settings.seed,
            flag=float(flag()),
        )
        end_s = clock()
        progress = Progress(result, end_s - start_s, is_last=share.step == settings.num_steps - 1)
        for hook in hooks:
            hook(engine, progress)
        if progress.is_last or progress.interrupted:
            return
        start_s = clock()
