"""Load the files of a reward model, or say why they are none. Used by load, export and import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from rmray.errors import BundleError
from rmray.models.base import quiet_loading, set_dropout
from rmray.models.bundle.weights import read_headers
from rmray.models.files import first_line, tensor_from_files
from rmray.models.guards import has_score_head, natural_pooling
from rmray.models.heads import HEADS, SCALAR, HeadClass, find_head, readout_of, set_head_float32
from rmray.models.lora import ADAPTER_DIR, load_adapter


def load_config(directory: Path) -> PretrainedConfig:
    """The model's config. Raises BundleError: none, unknown to transformers, no classifier, more than one label."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            "the model's config cannot be read",
            where=str(directory / "config.json"),
            why=first_line(error),
            next_step="rmray runs the architectures of transformers and never code that comes with a model",
        ) from error
    kind = next(iter(config.architectures or ()), "ForSequenceClassification")
    if not kind.endswith((SCALAR.suffix, HEADS["tokens"].suffix)):
        raise BundleError(
            f"the model is a {kind}, not a reward model: it has no head that gives a score",
            where=str(directory / "config.json"),
            next_step="train one from it (`rmray train`), or take a sequence classifier with num_labels 1",
        )
    if kind.endswith(SCALAR.suffix) and config.num_labels != 1:
        raise BundleError(
            f"the model has {config.num_labels} labels, and a scalar reward model has one",
            where=str(directory / "config.json"),
            next_step="take a model with num_labels 1",
        )
    if not kind.endswith(SCALAR.suffix) and readout_of(config) is None:
        raise BundleError(
            f"the model has {config.num_labels} labels a token; an outcome model has one, a process model three",
            where=str(directory / "config.json"),
            next_step="train one with rmray (objective.name outcome or process)",
        )
    return config


def head_class(config: PretrainedConfig) -> HeadClass:
    """What transformers loads the model of a config with."""
    return HEADS[readout_of(config) or "last"]


def load_classifier(directory: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """The classifier of a directory with its weights in `dtype`, in eval mode, on the CPU; with its adapter, where that
    lies apart.

    Raises ModelError for an adapter that does not fit, BundleError: unsound files, more than one label, weights that
    are not in the files (a head that was never trained among them), weights that are NaN or infinite.
    """
    read_headers(directory)
    config = load_config(directory)
    for part in (config, config.get_text_config()):
        set_dropout(part, 0.0)  # scoring has none, and the packed forward refuses models that have
    model: PreTrainedModel
    try:
        with quiet_loading():
            model, info = head_class(config).auto.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise BundleError("transformers cannot load the model", where=str(directory), why=first_line(error)) from error
    _check_loaded(directory, model, info)
    _check_finite(directory, model)
    if (directory / ADAPTER_DIR).is_dir():
        load_adapter(model, directory / ADAPTER_DIR)
    return model  # from_pretrained leaves it in eval mode


def head_names(model: PreTrainedModel) -> list[str]:
    """The parameters on top of the base model: `score.weight` of a decoder, `classifier...` of an encoder."""
    return [n for n, _ in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")]


def head_to_float32(model: PreTrainedModel, directory: Path) -> None:
    """Give the head its weights as they are in the files, computed in float32: a bfloat16 head ties close pairs."""
    set_head_float32(model)
    name, head = find_head(model)
    for part, parameter in head.named_parameters():
        if parameter.dtype != torch.float32:
            exact = tensor_from_files(str(directory), f"{name}.{part}")
            parameter.data = (parameter if exact is None else exact).detach().float()


def plain_pooling(directory: Path) -> tuple[str, bool]:
    """Where plain transformers reads this model's score (`last`, `first`, `mean`, at all `tokens` or `steps`), and
    whether that is the model of a decoder with one `score` layer, which may be padded on the left as well."""
    config = load_config(directory)
    model = meta_model(config)
    return readout_of(config) or natural_pooling(model), has_score_head(model)


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The classifier's structure without any weights."""
    auto = head_class(config).auto
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config)
    return model


def check_head(directory: Path, config: PretrainedConfig) -> None:
    """Raise BundleError where the files hold no head, before anything is loaded: `load_classifier` looks closer."""
    key = f"{find_head(meta_model(config))[0]}.weight"
    if not any(name == key or name.endswith(f".{key}") for name in read_headers(directory)):
        raise _untrained_head(directory, key)


def _untrained_head(directory: Path, names: str) -> BundleError:
    return BundleError(
        f"the head was never trained: {names} is not in the files",
        where=str(directory),
        why="transformers would fill it with random numbers, and every reward would be noise",
        next_step="train the model first (`rmray train`); of a LoRA model, merge the adapter with its saved head",
    )


def _check_loaded(directory: Path, model: PreTrainedModel, info: dict[str, Any]) -> None:
    missing = sorted(info["missing_keys"])
    head = [name for name in missing if name in head_names(model)]
    if head:
        raise _untrained_head(directory, ", ".join(head))
    if missing:
        raise BundleError(
            f"{len(missing)} weight(s) are not in the files, {missing[0]} first",
            where=str(directory),
            next_step="copy or download the model again",
        )


def _check_finite(directory: Path, model: PreTrainedModel) -> None:
    bad = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise BundleError(
            f"{len(bad)} weight(s) are NaN or infinite, {bad[0]} first",
            where=str(directory),
            next_step="the model is broken: use an earlier checkpoint; a version being served stays as it is",
        )
