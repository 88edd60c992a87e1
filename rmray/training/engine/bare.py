"""The engine of one process in bare torch: the reference that the sharded one is tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from rmray.data.batch import FlatBatch
from rmray.training.engine.common import (
    InAutocast,
    ModelFacts,
    adamw,
    align,
    clip_and_step,
    load_replicated_moments,
    replicated_moments,
    set_lr,
    trained,
)
from rmray.training.engine.contract import EngineSettings, Load, Ranks, Update


class TorchEngine(ModelFacts):
    """One process, bare torch."""

    def __init__(self, load: Load, settings: EngineSettings, *, device: torch.device | str = "cpu") -> None:
        self.ranks = Ranks(device)
        if self.ranks.world_size > 1:
            raise ValueError("TorchEngine is for one process; DeepSpeedEngine shards over ranks")
        self.backbone: Any = load(lambda parameters: nullcontext())
        self.backbone.to(device)
        align(self.backbone)
        self.updates = 0
        self._settings = settings
        self._module = InAutocast(self.backbone) if settings.bfloat16 else self.backbone
        self._optimizer = adamw(self.backbone.model, settings)

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        scores_S: torch.Tensor = self._module(batch.to(self.ranks.device))
        return scores_S

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        torch.autograd.backward(loss)

    def step(self, lr: float) -> Update:
        # A trained parameter that took no part in the forward has a gradient of zero, as DeepSpeed has it: it decays,
        # and it has moments to save.
        for _, parameter in trained(self.backbone.model):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        set_lr(self._optimizer, lr)
        update = clip_and_step(self.backbone, self._optimizer, self._settings.max_grad_norm, self._optimizer.step)
        self._optimizer.zero_grad(set_to_none=True)
        return update

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self._saved_parameters():
            yield name, parameter.detach()
        yield from self._saved_buffers()

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self.updates:
            yield from replicated_moments(self.backbone.model, self._optimizer)

    def load_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        load_replicated_moments(self.backbone.model, self._optimizer, read, updates)
        self.updates = updates
