"""What the engines share: facts of the model, AdamW's groups and state, clipping of whole gradients, the bfloat16
forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from rmray.data.batch import FlatBatch
from rmray.models.depth import depths
from rmray.training.engine.contract import EngineSettings, Update

MOMENTS = ("exp_avg", "exp_avg_sq")
ALIGNMENT_BYTES = 64


class ModelFacts:
    """What an engine can tell of `backbone.model` without a message between ranks."""

    backbone: Any
    _settings: EngineSettings

    def tensor_sizes(self) -> dict[str, int]:
        # Under zero.Init a parameter of another rank is empty here; its size and shape are kept beside it.
        sizes = {name: int(getattr(p, "ds_numel", p.numel())) for name, p in self._saved_parameters()}
        return sizes | {name: tensor.numel() for name, tensor in self._saved_buffers()}

    def _saved_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of `weights`."""
        model = self.backbone.model
        return trained(model) if self._settings.trained_only else model.named_parameters()

    def _saved_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(()) if self._settings.trained_only else persistent_buffers(self.backbone.model)

    def trained_names(self) -> set[str]:
        return {name for name, _ in trained(self.backbone.model)}


def align(model: nn.Module) -> None:
    """Move weights that do not begin at a multiple of 64 bytes, as all memory of torch's own does, to where they do.

    What comes from a mapped safetensors file lies where the file's header ends. Matrix products on CPUs round
    differently by that, and a run resumed from a checkpoint would leave the run left alone by a last bit.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.data_ptr() % ALIGNMENT_BYTES:
                tensor.data = tensor.data.clone()


def parameter_groups(model: Any, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay; biases and norms do not. lr_scale: of a group's learning rate, by its layer."""
    scales = lr_scales(model, layer_decay) if layer_decay != 1 else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in trained(model):
        is_matrix = len(getattr(p, "ds_shape", p.shape)) >= 2
        groups.setdefault((scales.get(name, 1.0), is_matrix), []).append(p)
    return [
        {"params": parameters, "weight_decay": weight_decay if is_matrix else 0.0, "lr_scale": scale}
        for (scale, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def lr_scales(model: Any, layer_decay: float) -> dict[str, float]:
    """Parameter -> its share of the learning rate: 1 above the layers, layer_decay less for each layer below."""
    depth_of, num_layers = depths(model)
    return {name: layer_decay ** (num_layers + 1 - depth) for name, depth in depth_of.items()}


def adamw(model: Any, settings: EngineSettings) -> torch.optim.AdamW:
    groups = parameter_groups(model, settings.weight_decay, settings.layer_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def fresh_state(parameter: torch.Tensor, updates: int) -> dict[str, torch.Tensor]:
    """AdamW's state of one parameter, as torch's fused AdamW keeps it."""
    step = torch.tensor(float(updates), dtype=torch.float32, device=parameter.device)
    return {"step": step, **{key: torch.zeros_like(parameter) for key in MOMENTS}}


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if name not in parameters:
            yield name, tensor


class InAutocast(nn.Module):
    """Runs a backbone in bfloat16 autocast. Inside the module: DeepSpeed undoes an autocast entered around it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        # No weight is used twice in a forward, and at stage 3 a cache would hold the whole model.
        with torch.autocast(batch.token_ids_T.device.type, torch.bfloat16, cache_enabled=False):
            scores_S: torch.Tensor = self.backbone(batch)
            return scores_S


def clip_and_step(
    module: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float, step: Callable[[], Any]
) -> Update:
    """Make an optimizer's step with whole gradients, clipped by their global norm; none where that is not finite.

    Clipping and the decision are left to the fused kernel, by the two tensors that torch's GradScaler gives it: it
    divides by the one and does nothing where the other is 1. So no pass over the gradients is made for clipping, and
    the device is not waited for. step: calls `optimizer.step()`.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients).float()
    applied = torch.isfinite(norm)
    scaled: Any = optimizer
    scaled.grad_scale = ((norm + 1e-6) / max_norm).clamp(min=1.0)  # 1e-6 as in torch's clip_grad_norm_
    scaled.found_inf = (~applied).float()
    step()
    return Update(norm, applied)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def replicated_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in trained(model):
        state: Mapping[str, torch.Tensor] = optimizer.state.get(parameter, {})
        for key in MOMENTS:
            if key in state:
                yield f"{name}.{key}", state[key]


def load_replicated_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, read: Callable[[str], torch.Tensor], updates: int
) -> None:
    for name, parameter in trained(model) if updates else ():
        optimizer.state[parameter] = state = fresh_state(parameter, updates)
        for key in MOMENTS:
            state[key].copy_(read(f"{name}.{key}"))
