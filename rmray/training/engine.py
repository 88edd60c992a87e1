"""One optimizer step on one rank: forward, backward, reduce, clip, update. The loop and the checkpoints call it.

`DeepSpeedEngine` shards over ranks (ZeRO stages 0 to 3); `TorchEngine` is the same arithmetic in bare torch for one
process: the reference that the other is tested against, and what a machine with only torch runs.

Weights, gradients, their reduction and AdamW's moments are float32 at every stage. Under bfloat16 the forward runs in
autocast over the float32 weights, so that no update is lost to rounding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from rmray.data.batch import FlatBatch

MOMENTS = ("exp_avg", "exp_avg_sq")


class Backbone(Protocol):
    """A module from a flat batch to S scores. `model` is its part that checkpoints hold, in Hugging Face's names."""

    model: nn.Module

    def __call__(self, batch: FlatBatch) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a step is made. weight_decay: on matrices alone, as is usual. bfloat16: autocast of the forward."""

    zero_stage: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """What became of a step. grad_norm: over all ranks, before clipping. applied: False where it was not finite; then
    weights and moments are as before, on every rank."""

    grad_norm: float
    applied: bool


class Ranks:
    """This process among the ranks of a run, and what they tell each other. Alone, every operation is the identity."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.world_size = torch.distributed.get_world_size() if together else 1

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over ranks, the same on all."""
        return self._reduce(values, torch.distributed.ReduceOp.SUM)

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise maximum over ranks, the same on all."""
        return self._reduce(values, torch.distributed.ReduceOp.MAX)

    def _reduce(self, values: torch.Tensor, operation: Any) -> torch.Tensor:
        values = values.detach().to(self.device, copy=True)
        if self.world_size > 1:
            torch.distributed.all_reduce(values, operation)
        return values.cpu()

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

    updates: optimizer steps applied so far.
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
        """Name and whole tensor of each parameter (float32) and persistent buffer, one at a time, on every rank."""
        ...

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and whole tensor of AdamW's moments, `PARAMETER.exp_avg`, one at a time; nothing before any update."""
        ...

    def load_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        """Take up moments that `moments` gave, at any world size and stage. read: a moment by name."""
        ...


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay; biases and norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Under zero.Init a parameter of another rank is empty here; its shape is kept beside it.
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    others = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _adamw(model: nn.Module, settings: EngineSettings) -> torch.optim.AdamW:
    groups = parameter_groups(model, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _fresh_state(parameter: torch.Tensor, updates: int) -> dict[str, torch.Tensor]:
    """AdamW's state of one parameter, as torch's fused AdamW keeps it."""
    step = torch.tensor(float(updates), dtype=torch.float32, device=parameter.device)
    return {"step": step, **{key: torch.zeros_like(parameter) for key in MOMENTS}}


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if name not in parameters:
            yield name, tensor


class _InAutocast(nn.Module):
    """Runs a backbone in bfloat16 autocast. Inside the module: DeepSpeed undoes an autocast entered around it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        # No weight is used twice in a forward, and at stage 3 a cache would hold the whole model.
        with torch.autocast(batch.token_ids_T.device.type, torch.bfloat16, cache_enabled=False):
            return self.backbone(batch)


class TorchEngine:
    """One process, bare torch."""

    def __init__(self, backbone: Any, settings: EngineSettings, *, device: torch.device | str = "cpu") -> None:
        self.ranks = Ranks(device)
        if self.ranks.world_size > 1:
            raise ValueError("TorchEngine is for one process; DeepSpeedEngine shards over ranks")
        self.backbone = backbone.to(device)
        self.updates = 0
        self._settings = settings
        self._module = _InAutocast(backbone) if settings.bfloat16 else backbone
        self._optimizer = _adamw(backbone, settings)

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        return self._module(batch.to(self.ranks.device))

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, lr: float) -> Update:
        update = _clip(self.backbone, self._settings.max_grad_norm)
        if update.applied:
            _set_lr(self._optimizer, lr)
            self._optimizer.step()
            self.updates += 1
        self._optimizer.zero_grad(set_to_none=True)
        return update

    def tensor_sizes(self) -> dict[str, int]:
        return _tensor_sizes(self.backbone.model)

    def trained_names(self) -> set[str]:
        return {name for name, _ in _trained(self.backbone.model)}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.backbone.model.named_parameters():
            yield name, parameter.detach()
        yield from _persistent_buffers(self.backbone.model)

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from _replicated_moments(self.backbone.model, self._optimizer)

    def load_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        _load_replicated_moments(self.backbone.model, self._optimizer, read, updates)
        self.updates = updates


class DeepSpeedEngine:
    """A share of a ZeRO-sharded run, on every rank of an initialised process group."""

    def __init__(
        self, load: Callable[[], Any], settings: EngineSettings, *, device: torch.device | str = "cpu"
    ) -> None:
        """load: makes the backbone; at stage 3 it runs under zero.Init, so that no process ever holds all weights."""
        deepspeed = _import_deepspeed()
        self.ranks = Ranks(device)
        self.updates = 0
        self._settings = settings
        self._stage = settings.zero_stage
        config = _deepspeed_config(settings, self.ranks)
        if self._stage == 3:
            with _partitioned_loading(config):
                self.backbone = load()
        else:
            self.backbone = load()
        module = _InAutocast(self.backbone) if settings.bfloat16 else self.backbone
        self._optimizer = _adamw(self.backbone, settings)
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=self._optimizer, config=config, dist_init_required=False
        )

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        return self._engine(batch.to(self.ranks.device))

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float) -> Update:
        _set_lr(self._optimizer, lr)
        update = self._step_replicated() if self._stage == 0 else self._step_sharded()
        self.updates += update.applied
        return update

    def _step_replicated(self) -> Update:
        # DeepSpeed's stage 0 steps on whatever gradient there is, so clipping and the check are done here.
        update = _clip(self.backbone, self._settings.max_grad_norm)
        if update.applied:
            self._engine.step()
        else:
            self._engine.zero_grad()
        return update

    def _step_sharded(self) -> Update:
        # The sharded optimizers take the norm over all ranks and drop the step where it is not finite.
        self._engine.step()
        return Update(float(self._engine.get_global_grad_norm()), bool(self._engine.was_step_applied()))

    def tensor_sizes(self) -> dict[str, int]:
        return _tensor_sizes(self.backbone.model)

    def trained_names(self) -> set[str]:
        return {name for name, _ in _trained(self.backbone.model)}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.backbone.model.named_parameters():
            yield name, self._whole(parameter)
        yield from _persistent_buffers(self.backbone.model)

    def _whole(self, parameter: nn.Parameter) -> torch.Tensor:
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        whole = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        if whole is not None:
            return whole.detach()
        with GatheredParameters([parameter], enabled=self._stage == 3):
            return parameter.detach().clone()

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._stage == 0:
            yield from _replicated_moments(self.backbone.model, self._optimizer)
        elif self.updates:
            from deepspeed.utils import safe_get_full_optimizer_state

            self._link_moments()
            for name, parameter in _trained(self.backbone.model):
                for key in MOMENTS:
                    yield f"{name}.{key}", safe_get_full_optimizer_state(parameter, key)

    def load_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        if self._stage == 0:
            _load_replicated_moments(self.backbone.model, self._optimizer, read, updates)
        elif updates:
            self._load_sharded_moments(read, updates)
        self.updates = updates

    def _load_sharded_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        zero = self._engine.optimizer
        shards = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for shard in shards:
            self._optimizer.state[shard] = _fresh_state(shard, updates)
        self._link_moments()
        for name, parameter in _trained(self.backbone.model):
            for key in MOMENTS:
                whole = read(f"{name}.{key}").to(self.ranks.device)
                if self._stage == 3:
                    safe_set_local_optimizer_state(parameter, self._own_slice(parameter, whole), key)
                else:
                    safe_set_full_optimizer_state(parameter, whole, key)

    def _link_moments(self) -> None:
        """Tell each parameter where its slice of the moments lies. Stages 1 and 2 do so once, during the first update,
        when only the first group of parameters has moments."""
        if self._stage < 3:
            from deepspeed.utils import lazy_init_hp_params_optimizer_state

            zero = self._engine.optimizer
            for parameters, shard in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, shard, self._optimizer.state)

    def _own_slice(self, parameter: Any, whole: torch.Tensor) -> torch.Tensor:
        """This rank's part of a stage-3 parameter's flat tensor, padded with zeros at the end."""
        size = parameter.partition_numel()
        own = whole.flatten()[self.ranks.rank * size : (self.ranks.rank + 1) * size]
        return nn.functional.pad(own, (0, size - own.numel()))


def _clip(module: nn.Module, max_norm: float) -> Update:
    """Clip whole gradients in place by their global norm."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return Update(float(norm), bool(torch.isfinite(norm)))


def _tensor_sizes(model: nn.Module) -> dict[str, int]:
    sizes = {name: int(getattr(p, "ds_numel", p.numel())) for name, p in model.named_parameters()}
    return sizes | {name: tensor.numel() for name, tensor in _persistent_buffers(model)}


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _replicated_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in _trained(model):
        state: Mapping[str, torch.Tensor] = optimizer.state.get(parameter, {})
        for key in MOMENTS:
            if key in state:
                yield f"{name}.{key}", state[key]


def _load_replicated_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, read: Callable[[str], torch.Tensor], updates: int
) -> None:
    for name, parameter in _trained(model) if updates else ():
        optimizer.state[parameter] = state = _fresh_state(parameter, updates)
        for key in MOMENTS:
            state[key].copy_(read(f"{name}.{key}"))


def _import_deepspeed() -> Any:
    """DeepSpeed, quiet and without its compiled CPU collectives.

    Those are built by a C++ compiler at first use, which many machines lack; gloo and NCCL do the same work.
    """
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    return deepspeed


def _deepspeed_config(settings: EngineSettings, ranks: Ranks) -> dict[str, Any]:
    on_gpu = ranks.device.type == "cuda"
    bucket_elements = 50_000_000 if on_gpu else 5_000_000
    return {
        "train_micro_batch_size_per_gpu": 1,  # nominal: micro-batches are planned by tokens, and weighed by the loss
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm if settings.zero_stage else 0.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": settings.zero_stage,
            "overlap_comm": on_gpu,
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket_elements,
            "allgather_bucket_size": bucket_elements,
            "stage3_prefetch_bucket_size": bucket_elements,
        },
    }


class _Zero3Config:
    """What transformers asks to know that it must load under zero.Init; its own class for this needs accelerate."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def is_zero3(self) -> bool:
        return True


@contextmanager
def _partitioned_loading(config: dict[str, Any]) -> Iterator[None]:
    """Within it, `from_pretrained` gives every rank its part of each parameter as soon as the parameter is made."""
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    alive = _Zero3Config(config)  # transformers keeps a weak reference
    set_hf_deepspeed_config(alive)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del alive
