"""Make a step's rows into batches, one step ahead of the device. Called by `loop`.

On a thread of its own, while the step before runs: batches are numpy and copies, which leave the interpreter to others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from rmray.data.batch import FlatBatch, build_batch
from rmray.data.pairs import PairTargets
from rmray.data.shares import StepShare
from rmray.training.objective import Objective


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward's batch, in pinned memory where it goes to a GPU, and which of its scores are compared."""

    batch: FlatBatch
    targets: PairTargets


def collate(share: StepShare, objective: Objective, *, pooling: str, pin: bool = False) -> tuple[MicroBatch, ...]:
    """The micro-batches of one rank's share of a step.

    No rows give a batch without scores, which the backbone runs all the same: every rank is needed in every forward.
    """
    batches = (build_batch([row.group for row in rows], pooling=pooling) for rows in share.micro_batches)
    return tuple(
        MicroBatch(batch.pin_memory() if pin else batch, objective.targets(rows))
        for batch, rows in zip(batches, share.micro_batches, strict=True)
    )


def collated(
    shares: Iterable[StepShare], objective: Objective, *, pooling: str, device: torch.device
) -> Iterator[tuple[StepShare, tuple[MicroBatch, ...]]]:
    """Each share with its micro-batches; those of the next one are made while the caller works on this one.

    An error of `shares` is raised where that share would have come, after the one before it.
    """
    pin = device.type == "cuda"
    source = iter(shares)
    with ThreadPoolExecutor(1, thread_name_prefix="rmray-collate") as thread:
        ahead: tuple[StepShare, Future[tuple[MicroBatch, ...]]] | None = None
        error: Exception | None = None
        while True:
            current, ahead = ahead, None
            try:
                share = next(source)
                ahead = share, thread.submit(collate, share, objective, pooling=pooling, pin=pin)
            except StopIteration:
                pass
            except Exception as raised:
                error = raised
            if current:
                yield current[0], current[1].result()
            if error:
                raise error
            if not ahead:
                return
