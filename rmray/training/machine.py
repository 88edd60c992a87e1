"""Look at a worker's machine and at a base model, for `auto`. Run by `trainer` in a task with a worker's resources."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import psutil
import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from rmray.config.train import ModelConfig
from rmray.errors import ClusterError
from rmray.models import guards
from rmray.models.base import has_bfloat16, set_dropout
from rmray.models.depth import head_names
from rmray.models.freeze import freeze
from rmray.models.lora import num_adapter_parameters
from rmray.training.auto import Machine, ModelShape

CGROUPS = Path("/sys/fs/cgroup")
# Limit, use and the part of it that the kernel gives back when asked, in control groups of version 2 and 1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def inspect_machine(*, gpu: bool, workers_here: int) -> Machine:
    """What one of `workers_here` workers finds on this machine. Raises ClusterError where torch sees no GPU.

    A GPU is a worker's own; main memory is shared, and what a container may still take counts for more than what the
    machine has.
    """
    if gpu:
        if not torch.cuda.is_available():
            raise ClusterError(
                "torch sees no GPU on the worker's machine",
                where="workers.gpus",
                why=f"torch {torch.__version__} finds no CUDA device, though Ray assigned one",
                next_step="install a CUDA build of torch on the nodes, or set workers.gpus to 0",
            )
        device = torch.device("cuda")
        free_bytes, _ = torch.cuda.mem_get_info()
        return Machine("cuda", free_bytes, has_bfloat16(device), torch.cuda.get_device_name())
    free_bytes = min([psutil.virtual_memory().available, *container_room()]) // workers_here
    return Machine("cpu", free_bytes, has_bfloat16(torch.device("cpu")), f"a worker's share of {os.uname().nodename}")


def container_room(cgroups: Path = CGROUPS) -> list[int]:
    """Bytes that the container may still take, for each limit that it has."""
    room = []
    for limit, use, stat, cache in _CGROUP_FILES:
        texts = [(cgroups / name).read_text() for name in (limit, use, stat) if (cgroups / name).exists()]
        if len(texts) == 3 and texts[0].strip().isdigit():  # else it says `max`
            cached = dict(line.split(maxsplit=1) for line in texts[2].splitlines()).get(cache, "0")
            room.append(max(0, int(texts[0]) - int(texts[1]) + int(cached)))
    return room


def inspect_model(model: ModelConfig) -> ModelShape:
    """The shape of a base model, and how much of it is trained, from its config alone; no weight is read or
    allocated."""
    config = AutoConfig.from_pretrained(model.base)
    with torch.device("meta"):
        base = AutoModel.from_config(config)
        classifier = _classifier(config)
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    return ModelShape(
        num_parameters=sum(p.numel() for p in base.parameters()),
        hidden=hidden,
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * hidden),
        layers=int(text.num_hidden_layers),
        longest_packed=_longest_packed(classifier),
        trained_parameters=_trained_parameters(classifier, model),
    )


def _classifier(config: PreTrainedConfig) -> PreTrainedModel | None:
    """The reward model that is made of this base, None where transformers has no such class: loading tells of that."""
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None
    config = copy.deepcopy(config)
    config.num_labels = 1
    set_dropout(config.get_text_config(), 0.0)
    classifier: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return classifier


def _longest_packed(classifier: PreTrainedModel | None) -> int:
    """What the guards say. The probe on the real weights may still refuse the packed forward: then forwards are larger
    than planned, within the margin of `auto`."""
    if classifier is None or guards.packed_refusal(classifier):
        return 0
    return guards.sliding_window(classifier) or sys.maxsize


def _trained_parameters(classifier: PreTrainedModel | None, model: ModelConfig) -> int | None:
    """Those that have a gradient and moments; None for all."""
    if classifier is None or (model.lora is None and model.freeze is None):
        return None
    if model.lora is not None:
        named = dict(classifier.named_parameters())
        head = sum(named[name].numel() for name in head_names(classifier))
        return head + num_adapter_parameters(classifier, r=model.lora.r, targets=model.lora.targets)
    assert model.freeze is not None
    freeze(classifier, model.freeze)
    return sum(p.numel() for p in classifier.parameters() if p.requires_grad)
