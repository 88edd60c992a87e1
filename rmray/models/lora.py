"""Low-rank adapters: put beside a model's linear layers, merged into them, or kept in a folder that peft loads.

Called by training and by the bundle. A layer W x becomes W x + alpha / r * B A dropout(x), with W frozen, A random and
B zero (Hu et al. 2021, "LoRA"). The model keeps its class and the names of its modules, so that the packed forward, the
head and everything else find what they know. peft is imported where it is needed: it costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rmray.errors import ModelError
from rmray.models.depth import head_names
from rmray.models.heads import HEADS

ADAPTER_DIR = "adapter"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_NAME = "default"  # peft's name of a model's only adapter
_PREFIX = "base_model.model."  # of peft's files


def add_adapters(
    model: PreTrainedModel, *, r: int, alpha: float, dropout: float, targets: Literal["auto"] | Sequence[str], seed: int
) -> None:
    """Freeze the model but for its head and give `targets` adapters, which change no score yet.

    targets: ends of names of linear layers; `auto`: all within attention. The same seed gives the same adapters on
    every rank. Raises ModelError where a target is no linear layer of the base.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = auto_targets(model) if targets == "auto" else list(targets)
    _check_targets(model, names)
    head = head_names(model)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)  # freezes all else
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_adapter(name) or name in head)
    model.train(model.training)  # new modules are made for training: their dropout would be on


def auto_targets(model: PreTrainedModel) -> list[str]:
    """Ends of the names of all linear layers within attention: `self_attn.q_proj`, `attn.c_attn`, ..."""
    found = {end for name, _ in _linears(model) if (end := _within_attention(name))}
    if not found:
        raise ModelError(
            "no linear layer lies within a module called attention",
            where=type(model).__name__,
            next_step="name the layers that shall have an adapter in model.lora.targets",
        )
    return sorted(found)


def num_adapter_parameters(model: PreTrainedModel, *, r: int, targets: Literal["auto"] | Sequence[str]) -> int:
    """Parameters that `add_adapters` would add, from shapes alone."""
    names = auto_targets(model) if targets == "auto" else list(targets)
    _check_targets(model, names)
    hit = [m for name, m in _linears(model) if any(f".{name}".endswith(f".{target}") for target in names)]
    return sum(r * int(size) for module in hit for size in module.get_parameter("weight").shape)


def remove_adapters(model: PreTrainedModel, *, merge: bool) -> None:
    """Make the model plain again. merge: add what the adapters do to the weights; else it is forgotten."""
    for name, layer in list(_adapted(model)):
        if merge:
            layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def save_adapter(model: PreTrainedModel, directory: Path, *, base: str) -> None:
    """Write adapters and head as `peft.PeftModel.from_pretrained(MODEL, DIR)` loads them. base: for readers."""
    from peft import LoraConfig, TaskType

    layers = dict(_adapted(model))
    one = next(iter(layers.values()))
    head = head_names(model)
    config = LoraConfig(
        task_type=TaskType.TOKEN_CLS if type(model).__name__.endswith(HEADS["tokens"].suffix) else TaskType.SEQ_CLS,
        base_model_name_or_path=base,
        r=one.r[_NAME],
        lora_alpha=one.scaling[_NAME] * one.r[_NAME],
        lora_dropout=getattr(one.lora_dropout[_NAME], "p", 0.0),
        target_modules=sorted(layers),
        modules_to_save=sorted({"pooler" if "pooler" in name else name.split(".")[0] for name in head}),
        inference_mode=True,
    )
    directory.mkdir(parents=True)
    config.save_pretrained(str(directory))
    tensors = {_key(name): p.detach().contiguous() for name, p in _kept(model, head)}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Put the adapters of `save_adapter` beside the layers of a plain model, and its head in place of the model's.

    Raises ModelError where the files are not of this model, or hold numbers that are not finite.
    """
    from peft import LoraConfig

    try:
        config: Any = LoraConfig.from_pretrained(str(directory))
        tensors = load_file(directory / WEIGHTS)
        add_adapters(
            model,
            r=config.r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=sorted(config.target_modules),
            seed=0,
        )
        with torch.no_grad():
            for name, parameter in _kept(model, head_names(model)):
                parameter.copy_(tensors.pop(_key(name)))
                if not torch.isfinite(parameter).all():
                    raise ValueError(f"{name} is not finite")
        if tensors:
            raise ValueError(f"{next(iter(tensors))} has no place in the model")
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(
            "the adapter does not fit the model beside it",
            where=str(directory),
            why=f"{type(error).__name__}: {error}",
            next_step="copy the bundle again, or export it anew with model.lora.export: merged",
        ) from error


def _linears(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Of the base model, by their names in it."""
    modules = model.base_model.named_modules()
    return ((name, module) for name, module in modules if isinstance(module, nn.Linear | Conv1D))


def _within_attention(name: str) -> str:
    """The name from its attention module on, or "" where the layer itself is none's."""
    parts = name.split(".")
    places = [i for i, part in enumerate(parts[:-1]) if "attn" in part.lower() or "attention" in part.lower()]
    return ".".join(parts[places[0] :]) if places else ""


def _check_targets(model: PreTrainedModel, names: Sequence[str]) -> None:
    linears = {id(module) for _, module in _linears(model)}
    for target in names:
        hits = [(name, m) for name, m in model.named_modules() if name == target or name.endswith(f".{target}")]
        wrong = [name for name, module in hits if id(module) not in linears]
        if wrong or not hits:
            ends = sorted({name.rpartition(".")[2] for name, _ in _linears(model)})
            raise ModelError(
                f"model.lora.targets: {target} "
                + (f"is {wrong[0]} too" if wrong else "is the end of no module's name"),
                where=type(model).__name__,
                why="adapters stand beside linear layers of the base model; the head is trained whole",
                next_step=f"choose among {', '.join(ends)}",
            )


def _adapted(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _kept(model: PreTrainedModel, head: set[str]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if _is_adapter(name) or name in head)


def _key(name: str) -> str:
    """A parameter's name in peft's files."""
    return _PREFIX + name.replace(f".{_NAME}.", ".")
