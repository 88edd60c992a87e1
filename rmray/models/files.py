"""Check a model's files before anything is loaded from them. Used by `base`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils.hub import cached_file

from rmray.errors import ModelError
from rmray.models.heads import HEADS
from rmray.models.lora import ADAPTER_DIR

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(name: str) -> PreTrainedConfig:
    """The config of a local directory or a Hub id, or ModelError."""
    path = Path(name).expanduser()
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError("there is no such model directory", where=name, next_step="check the path in model.base")
    if path.exists() and not (path / "config.json").is_file():
        raise ModelError(
            "not a model directory: it has no config.json",
            where=name,
            next_step="give the directory that save_pretrained wrote",
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "no model can be read here",
            where=name,
            why=first_line(error),
            next_step="give a directory, or a reachable Hub id, of an architecture that transformers knows",
        ) from error
    if getattr(config.get_text_config(), "vocab_size", None) is None:
        raise ModelError(f"a {config.model_type} model reads no text", where=name, next_step="give a language model")
    return config


def check_head(name: str, config: PreTrainedConfig, pooling: str) -> None:
    """Raise ModelError for a classifier of another kind, or with another number of labels, than `pooling` needs.

    A language model's config says 2 labels by default and means nothing by it; a classifier's does.
    """
    suffix, num_labels = HEADS[pooling].suffix, HEADS[pooling].num_labels
    kinds = [a for a in config.architectures or () if a.endswith("Classification")]
    if kinds and (config.num_labels != num_labels or not kinds[0].endswith(suffix)):
        raise ModelError(
            f"the model is a {kinds[0]} with {config.num_labels} label(s), where a {suffix[3:]} with {num_labels} is "
            "needed",
            where=name,
            next_step="take a base language model, or a model of that kind",
        )


def check_safetensors(name: str) -> None:
    """Raise ModelError where a local directory has no safetensors or lacks one of their shards.

    A Hub id is asked for safetensors when it is loaded.
    """
    directory = Path(name).expanduser()
    if not directory.is_dir():
        return
    if (directory / _INDEX).is_file():
        shards = set(json.loads((directory / _INDEX).read_text())["weight_map"].values())
        lacking = sorted(s for s in shards if not (directory / s).is_file())
        if lacking:
            raise ModelError(
                f"{len(lacking)} of {len(shards)} weight files are missing, {lacking[0]} first",
                where=name,
                next_step="copy or download the model again",
            )
    elif not any(directory.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in _PICKLES for p in directory.glob(pattern))
        raise ModelError(
            f"the weights are pickle files only ({pickles[0]})" if pickles else "the directory holds no weights",
            where=name,
            why="loading a pickle can run any code it carries; rmray reads safetensors" if pickles else "",
            next_step="convert it where you trust it: AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR)"
            if pickles
            else "copy or download the model again",
        )


def check_base(name: str, pooling: str = "last") -> PreTrainedConfig:
    """The config, or ModelError where `name` cannot become a reward model, from small files: before a job starts."""
    config = read_config(name)
    if Path(name, ADAPTER_DIR).is_dir():
        raise ModelError(
            "the bundle keeps its adapter apart from its base, and training would go on without it",
            where=name,
            next_step="train from a bundle that was exported with model.lora.export: merged",
        )
    check_head(name, config, pooling)
    check_safetensors(name)
    return config


def tensor_from_files(name: str, key: str) -> torch.Tensor | None:
    """The tensor `key` as it is in the files, or None where they know it by another name."""
    index = cached_file(name, _INDEX, _raise_exceptions_for_missing_entries=False)
    shard = _WEIGHTS if index is None else json.loads(Path(index).read_text())["weight_map"].get(key)
    path = shard and cached_file(name, shard, _raise_exceptions_for_missing_entries=False)
    if not path:
        return None
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(key) if key in file.keys() else None  # noqa: SIM118 (not a dict)


def first_line(error: Exception) -> str:
    """Type and first line of another library's error."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
