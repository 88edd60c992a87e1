"""Load a base model, or an existing reward model, with the head that training needs. Used by training.

The files are safetensors; nothing in them is run. Everything that does not fit is a ModelError before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.nn import Parameter
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rmray.errors import ModelError
from rmray.models.files import check_base, first_line, read_config, tensor_from_files
from rmray.models.heads import HEADS, SCALAR, HeadClass, find_head, initial_head_weight, set_head_float32
from rmray.models.tiny_base import build_tiny_base

__all__ = [
    "build_tiny_base",
    "check_dtype",
    "check_vocabulary",
    "has_trained_head",
    "initial_head_weight",
    "load_reward_model",
    "quiet_loading",
    "read_vocab_size",
    "set_dropout",
]

Gather = Callable[[list[Parameter]], AbstractContextManager[Any]]
"""Makes partitioned parameters whole inside the context and keeps what was written to them (ZeRO-3)."""

_HEAD_TRAINED = "rmray_head_trained"
_PARTITION = "ds_tensor"  # where ZeRO-3 keeps a rank's part of a parameter


def load_reward_model(
    name_or_dir: str | Path,
    *,
    dtype: torch.dtype,
    pad_id: int,
    seed: int,
    dropout: float = 0.0,
    pooling: str = "last",
    device: torch.device | str | None = None,
    gather: Gather = lambda parameters: nullcontext(),
) -> PreTrainedModel:
    """The classifier that `pooling` needs (see `HEADS`) on the CPU, base in `dtype`, head in float32, in eval mode.

    A head in the files is kept; a missing one starts from `initial_head_weight(shape, seed)` (`has_trained_head`
    tells which). pad_id: the tokenizer's pad token; where it is one past the embedding, a zero row is added for it.
    dropout: probability for every dropout of the base, 0 switches all off. device: where the model will run (default:
    CUDA where there is one), asked only whether it can compute in `dtype`.
    Inside transformers' ZeRO-3 context (an HfDeepSpeedConfig is alive) the weights come partitioned; `gather` is then
    deepspeed.zero.GatheredParameters with modifier rank 0, and every rank calls this together.

    Raises ModelError: no such model, pickle weights only, damaged or incomplete files, a classifier with
    another head, an architecture without such a classifier, a pad id outside the vocabulary, a dtype the device has
    not, weights that are NaN or infinite.
    """
    name = str(name_or_dir)
    check_dtype(dtype, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    head = HEADS[pooling]
    config = check_base(name, pooling)
    vocab_size = int(config.get_text_config().vocab_size)
    if not 0 <= pad_id <= vocab_size:
        raise ModelError(
            f"the pad token's id {pad_id} lies outside the vocabulary of {vocab_size}",
            where=name,
            next_step="take the tokenizer that belongs to the model",
        )
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: i for i, label in config.id2label.items()}
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        part.pad_token_id = min(pad_id, vocab_size - 1)
        set_dropout(part, dropout)
    # transformers draws missing weights from the global generator; ours are set below, and its state is left alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, missing = _from_pretrained(name, config, head, dtype)
    if pad_id == vocab_size:
        _add_pad_row(model, pad_id, gather)
    _set_head(name, model, missing, seed, gather)
    _check_finite(name, model)
    model.train(False)
    return model


def has_trained_head(model: PreTrainedModel) -> bool:
    """Whether the head came from the files. False: it is freshly initialised and scores noise until it is trained."""
    return bool(getattr(model, _HEAD_TRAINED))


def read_vocab_size(name_or_dir: str | Path) -> int:
    """Rows of the model's embedding, from its config alone. Raises ModelError where there is no such model."""
    return int(read_config(str(name_or_dir)).get_text_config().vocab_size)


def check_vocabulary(largest_id: int, vocab_size: int, *, where: str) -> None:
    """Raise ModelError where a tokenizer's largest token id has no row in an embedding of `vocab_size` rows."""
    if largest_id >= vocab_size:
        raise ModelError(
            f"the tokenizer has token ids up to {largest_id}, the model has embeddings for {vocab_size}",
            where=where,
            why="tokenizer and model do not belong together, or a token was added without resizing the model",
            next_step="take the tokenizer that was saved with the model",
        )


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself (CUDA from Ampere on; CPUs whose vector units oneDNN uses)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return True


def check_dtype(
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    supported: Callable[[torch.device], bool] = has_bfloat16,
) -> None:
    """Raise ModelError where `device` cannot compute in `dtype` (float32 or bfloat16)."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise ModelError(f"{dtype} is not offered", next_step="set model.dtype to float32 or bfloat16")
    if dtype is torch.bfloat16 and not supported(torch.device(device)):
        raise ModelError(
            f"bfloat16 was asked for, but this {torch.device(device).type} device does not have it",
            next_step="set model.dtype to float32 (or auto)",
        )


def _from_pretrained(
    name: str, config: PreTrainedConfig, head: HeadClass, dtype: torch.dtype
) -> tuple[PreTrainedModel, list[str]]:
    """The model and the names of its weights that are not in the files: those of the head at most."""
    try:
        with quiet_loading():
            model, info = head.auto.from_pretrained(
                name,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"the model cannot be loaded as a {'sequence' if head is SCALAR else 'token'} classifier",
            where=name,
            why=first_line(error),
            next_step=f"rmray needs safetensors weights of an architecture that has {head.auto.__name__}",
        ) from error
    missing = sorted(info["missing_keys"])
    base = f"{model.base_model_prefix}."
    lost = [n for n in missing if n.startswith(base) and "pooler" not in n]
    if lost:
        raise ModelError(
            f"{len(lost)} weight(s) of the base model are not in its files, {lost[0]} first",
            where=name,
            next_step="copy or download the model again",
        )
    return model, missing


@contextmanager
def quiet_loading() -> Iterator[None]:
    """transformers would print a report of the missing head, which is expected, and a progress bar."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every dropout probability of a config, under whatever name, to `dropout`."""
    for field, value in list(vars(config).items()):
        if isinstance(value, int | float) and not isinstance(value, bool):
            if "dropout" in field or field.endswith("_pdrop"):
                setattr(config, field, dropout)
            elif field in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop", "router_jitter_noise"):
                setattr(config, field, 0.0)


def _add_pad_row(model: PreTrainedModel, pad_id: int, gather: Gather) -> None:
    model.resize_token_embeddings(pad_id + 1, mean_resizing=False)
    weight: Any = model.get_input_embeddings().weight
    with gather([weight]), torch.no_grad():
        weight[pad_id] = 0.0
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = pad_id


def _set_head(name: str, model: PreTrainedModel, missing: Sequence[str], seed: int, gather: Gather) -> None:
    """Float32 head with the weights of the files, or with reproducible first ones."""
    head_name, head = find_head(model)
    trained = f"{head_name}.weight" not in missing
    setattr(model, _HEAD_TRAINED, trained)
    set_head_float32(model)
    parameters = dict(model.named_parameters())
    for part, parameter in head.named_parameters():
        if _is_partitioned(parameter):
            continue
        # The files may hold more digits than the base's dtype.
        exact = tensor_from_files(name, f"{head_name}.{part}") if trained and parameter.dtype != torch.float32 else None
        parameter.data = (parameter if exact is None else exact).detach().float()
    for key in missing:
        parameter = parameters[key]
        with gather([parameter]), torch.no_grad():
            if parameter.ndim > 1:
                parameter.copy_(initial_head_weight(parameter.shape, seed))
            else:
                parameter.fill_(0.0 if key.endswith("bias") else 1.0)


def _check_finite(name: str, model: PreTrainedModel) -> None:
    """A partitioned parameter is checked by the ranks together, each its own part."""
    for key, parameter in model.named_parameters():
        if not torch.isfinite(_own_part(parameter)).all():
            raise ModelError(
                f"the weights hold NaN or infinite numbers, in {key} first",
                where=name,
                next_step="the model is broken: take an earlier checkpoint of it",
            )


def _own_part(parameter: Any) -> torch.Tensor:
    """A parameter, or this rank's part of it without the padding at its end, which holds whatever memory held."""
    if not _is_partitioned(parameter):
        whole: torch.Tensor = parameter.detach()
        return whole
    part: torch.Tensor = getattr(parameter, _PARTITION).detach().flatten()
    before = parameter.ds_process_group.rank() * part.numel()
    return part[: max(0, parameter.ds_numel - before)]


def _is_partitioned(parameter: Parameter) -> bool:
    return hasattr(parameter, _PARTITION)
