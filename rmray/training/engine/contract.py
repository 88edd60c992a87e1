"""What every engine offers, and what ranks tell each other. Imported by everything in `training`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from rmray.data.batch import FlatBatch

Gather = Callable[[list[Any]], AbstractContextManager[Any]]
"""Makes partitioned parameters whole inside the context; what rank 0 writes to them stays."""


Load = Callable[[Gather], Any]
"""Makes the backbone on the CPU, weights in float32: a module from a FlatBatch to S scores, whose `model` is the part
that checkpoints hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a step is made. weight_decay: on matrices alone, as is usual. layer_decay: of the learning rate, from each
    layer to the one below it. bfloat16: autocast of the forward. trained_only: `weights` leaves out what is frozen.

    bucket_elements: of one message between ranks. whole_below: at stage 3, parameters of fewer elements stay whole.
    """

    zero_stage: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    layer_decay: float = 1.0
    bfloat16: bool = False
    trained_only: bool = False
    bucket_elements: int = 5_000_000
    whole_below: int = 100_000


@dataclass(frozen=True, slots=True)
class Update:
    """What became of a step: scalars on the engine's device, so that nothing waits for them yet.

    grad_norm: over all ranks, before clipping. applied: 1 where the step was made; 0 where the norm was not finite, and
    then weights and moments are as before, on every rank.
    """

    grad_norm: torch.Tensor
    applied: torch.Tensor


class Ranks:
    """This process among the ranks of a run, and what they tell each other. Alone, every operation is the identity."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.world_size = torch.distributed.get_world_size() if together else 1

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over ranks, the same on all, on the ranks' device."""
        return self._reduce(values, torch.distributed.ReduceOp.SUM)

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise maximum over ranks, the same on all, on the ranks' device."""
        return self._reduce(values, torch.distributed.ReduceOp.MAX)

    def _reduce(self, values: torch.Tensor, operation: Any) -> torch.Tensor:
        values = values.detach().to(self.device, copy=True)
        if self.world_size > 1:
            torch.distributed.all_reduce(values, operation)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, by rank, on all ranks. For small objects: they are pickled between our own ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            torch.distributed.barrier()


class Engine(Protocol):
    """One rank's share of the model. Every method but `forward`'s reading is collective: all ranks call it alike.

    updates: optimizer steps applied so far; whoever calls `step` counts them, once it knows.
    """

    ranks: Ranks
    backbone: Any
    updates: int

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        """S scores, float32."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradient of `loss` / world size. last: of this step on this rank; the reduction ends with it."""
        ...

    def step(self, lr: float) -> Update:
        """Clip, update the weights at rate `lr` where the gradient is finite, and forget the gradient."""
        ...

    def tensor_sizes(self) -> dict[str, int]:
        """Elements of each tensor of the model, in the order of `weights`."""
        ...

    def trained_names(self) -> set[str]:
        """Names of the parameters that have moments."""
        ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and whole tensor of each parameter (float32) and persistent buffer, one at a time, on every rank.

        It may be the engine's own: whoever keeps it beyond the next step copies it.
        """
        ...

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and whole tensor of AdamW's moments, `PARAMETER.exp_avg`, one at a time; nothing before any update."""
        ...

    def load_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        """Take up moments that `moments` gave, at any world size and stage. read: a moment by name."""
        ...
