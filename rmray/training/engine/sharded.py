"""The engine of many ranks: DeepSpeed's ZeRO stages 0 to 3. The only module that imports deepspeed."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from rmray.data.batch import FlatBatch
from rmray.training.engine.common import (
    MOMENTS,
    InAutocast,
    ModelFacts,
    adamw,
    align,
    clip_and_step,
    fresh_state,
    load_replicated_moments,
    replicated_moments,
    set_lr,
    trained,
)
from rmray.training.engine.contract import EngineSettings, Load, Ranks, Update


class DeepSpeedEngine(ModelFacts):
    """A share of a ZeRO-sharded run, on every rank of an initialised process group."""

    def __init__(self, load: Load, settings: EngineSettings, *, device: torch.device | str = "cpu") -> None:
        """load: at stage 3 it runs under zero.Init, so that no process ever holds all weights."""
        deepspeed = _import_deepspeed()
        self.ranks = Ranks(device)
        self.updates = 0
        self._settings = settings
        self._stage = settings.zero_stage
        config = _deepspeed_config(settings, self.ranks)
        self.backbone: Any
        if self._stage == 3:
            with _partitioned_loading(config):
                self.backbone = load(_gather)
        else:
            self.backbone = load(lambda parameters: nullcontext())
        align(self.backbone)
        module = InAutocast(self.backbone) if settings.bfloat16 else self.backbone
        self._optimizer = adamw(self.backbone.model, settings)
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=self._optimizer, config=config, dist_init_required=False
        )

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        scores_S: torch.Tensor = self._engine(batch.to(self.ranks.device))
        return scores_S

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float) -> Update:
        set_lr(self._optimizer, lr)
        if self._stage == 0:
            # DeepSpeed's stage 0 steps on whatever gradient there is, so clipping and the check are done here.
            return clip_and_step(self.backbone, self._optimizer, self._settings.max_grad_norm, self._engine.step)
        # The sharded optimizers take the norm over all ranks and drop the step where it is not finite.
        self._engine.step()
        facts = self._engine.get_global_grad_norm(), self._engine.was_step_applied()
        return Update(*(torch.as_tensor(fact, device=self.ranks.device) for fact in facts))

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self._saved_parameters():
            yield name, self._whole(parameter)
        yield from self._saved_buffers()

    def _whole(self, parameter: nn.Parameter) -> torch.Tensor:
        """One parameter whole: below stage 3 every rank has it, in float32."""
        if self._stage < 3:
            return parameter.detach()
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.requires_grad:
            whole: torch.Tensor = safe_get_full_fp32_param(parameter)
            return whole.detach()
        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        if not self.updates:
            return
        if self._stage == 0:
            yield from replicated_moments(self.backbone.model, self._optimizer)
        else:
            from deepspeed.utils import safe_get_full_optimizer_state

            self._link_moments()
            for name, parameter in trained(self.backbone.model):
                for key in MOMENTS:
                    yield f"{name}.{key}", safe_get_full_optimizer_state(parameter, key)

    def load_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        if self._stage == 0:
            load_replicated_moments(self.backbone.model, self._optimizer, read, updates)
        elif updates:
            self._load_sharded_moments(read, updates)
        self.updates = updates

    def _load_sharded_moments(self, read: Callable[[str], torch.Tensor], updates: int) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        zero = self._engine.optimizer
        shards = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for shard in shards:
            self._optimizer.state[shard] = fresh_state(shard, updates)
        self._link_moments()
        for name, parameter in trained(self.backbone.model):
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


def _gather(parameters: list[Any]) -> AbstractContextManager[Any]:
    from deepspeed.runtime.zero import GatheredParameters

    context: AbstractContextManager[Any] = GatheredParameters(parameters, modifier_rank=0)
    return context


def _import_deepspeed() -> Any:
    """DeepSpeed, quiet and without its compiled CPU collectives.

    Those are built by a C++ compiler at first use, which many machines lack; gloo and NCCL do the same work.
    """
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # DeepSpeed's own calls; they would fill every worker's log.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)
    return deepspeed


def _deepspeed_config(settings: EngineSettings, ranks: Ranks) -> dict[str, Any]:
    on_gpu = ranks.device.type == "cuda"
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
            "reduce_bucket_size": settings.bucket_elements,
            "allgather_bucket_size": settings.bucket_elements,
            "stage3_prefetch_bucket_size": settings.bucket_elements,
            "stage3_param_persistence_threshold": settings.whole_below,
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
