"""Make the model that a run trains, and what is exported of it: base, adapters, frozen parts, trained weights.

Called by `worker` on every rank and by `export`. Of a run with adapters a checkpoint holds the trained weights alone,
which are a thousandth of the whole; the base, whose hash the run's identity keeps, is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from rmray.config.train import TrainConfig
from rmray.data.tokenizer import load_base_tokenizer
from rmray.errors import BundleError
from rmray.models.base import load_reward_model, quiet_loading
from rmray.models.bundle.public import public_source
from rmray.models.freeze import freeze
from rmray.models.lora import ADAPTER_DIR, add_adapters, remove_adapters, save_adapter

Gather = Callable[[list[Any]], AbstractContextManager[Any]]


def make_model(
    config: TrainConfig,
    *,
    pad_id: int,
    device: str,
    checkpoint_dir: Path | None = None,
    gather: Gather = lambda parameters: nullcontext(),
) -> PreTrainedModel:
    """The run's model in float32 on the CPU, `requires_grad` where it is trained. checkpoint_dir: a checkpoint's
    `model`, None for the start. gather: see `load_reward_model`, which tells what it raises."""
    lora = config.model.lora
    model = load_reward_model(
        checkpoint_dir if checkpoint_dir and not lora else config.model.base,
        dtype=torch.float32,
        pad_id=pad_id,
        seed=config.run.seed,
        dropout=config.model.dropout,
        device=device,
        gather=gather,
        pooling=config.pooling,
    )
    if lora:
        add_adapters(
            model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=config.run.seed
        )
        if checkpoint_dir:
            _load_trained(model, checkpoint_dir, gather)
    elif config.model.freeze is not None:
        freeze(model, config.model.freeze)
    return model


def write_model(config: TrainConfig, checkpoint_dir: Path, directory: Path, *, pad_id: int) -> None:
    """Write the model of a checkpoint with adapters as others load it: merged, or with the adapter in a folder."""
    assert config.model.lora
    model = make_model(config, pad_id=pad_id, device="cpu", checkpoint_dir=checkpoint_dir)
    merge = config.model.lora.export == "merged"
    if not merge:
        save_adapter(model, directory / ADAPTER_DIR, base=public_source(config.model.base))
    remove_adapters(model, merge=merge)
    with quiet_loading():
        model.save_pretrained(directory)
    load_base_tokenizer(config.model.base)[0].save_pretrained(directory)


def _load_trained(model: PreTrainedModel, directory: Path, gather: Gather) -> None:
    """Give the trained parameters the values of a checkpoint, which holds no others."""
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no dict
                parameter = wanted.pop(name, None)
                if parameter is None:
                    raise _unlike(directory, f"it holds {name}, which is not trained")
                with gather([parameter]), torch.no_grad():
                    parameter.copy_(file.get_tensor(name))
    if wanted:
        raise _unlike(directory, f"it lacks {next(iter(wanted))}")


def _unlike(directory: Path, why: str) -> BundleError:
    return BundleError(
        "the checkpoint does not hold this run's adapters",
        where=str(directory),
        why=why,
        next_step="resume with the config that the run was started with, or start again with --overwrite",
    )
