"""Look at a worker's machine and at a base model, for `auto`. Run by `trainer` in a task with a worker's resources."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, AutoModel

from rmray.errors import ClusterError
from rmray.models.base import has_bfloat16
from rmray.training.auto import Machine, ModelShape

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def inspect_machine(*, gpu: bool, workers_here: int) -> Machine:
    """What one of `workers_here` workers finds on this machine. Raises ClusterError where torch sees no GPU.

    A GPU is a worker's own; main memory is shared, and a container's limit counts for more than the machine's size.
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
    free_bytes = min([psutil.virtual_memory().available, *_container_limits()]) // workers_here
    return Machine("cpu", free_bytes, has_bfloat16(torch.device("cpu")), f"a worker's share of {os.uname().nodename}")


def _container_limits() -> list[int]:
    texts = [Path(path).read_text().strip() for path in CGROUP_LIMITS if Path(path).exists()]
    return [int(text) for text in texts if text.isdigit()]


def inspect_model(name_or_dir: str) -> ModelShape:
    """The shape of a base model from its config alone; no weight is read or allocated."""
    config = AutoConfig.from_pretrained(name_or_dir)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    return ModelShape(
        num_parameters=sum(p.numel() for p in model.parameters()),
        hidden=hidden,
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * hidden),
        layers=int(text.num_hidden_layers),
    )
