"""Copy a model directory as a bundle holds it: safetensors, config and tokenizer with a safe pad. Used by export.

Weights stay as they are, byte for byte, unless the pad token needs one more row of the embedding.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from rmray.data.tokenizer import PadChoice, choose_pad_token, load_tokenizer, tokenizer_hash
from rmray.errors import BundleError
from rmray.models.bundle.classifier import check_head, load_config, meta_model
from rmray.models.bundle.weights import INDEX, TensorHeader, read_headers, weight_files
from rmray.models.lora import ADAPTER_DIR, CONFIG, WEIGHTS


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What `copy_model` wrote. headers: tensor name -> header, over all weight files."""

    tokenizer: PreTrainedTokenizerBase
    pad: PadChoice
    headers: dict[str, TensorHeader]


def copy_model(source: Path, target: Path) -> ModelFiles:
    """Copy weights, an adapter beside them, config, tokenizer and licence texts from `source` into the existing, empty
    folder `target`.

    Raises BundleError: an adapter without its base, no safetensors, unsound files, more than one label, a tokenizer
    that does not fit the vocabulary or does not survive saving.
    """
    check_source(source)
    names = weight_files(source)
    config = load_config(source)
    tokenizer, pad = tokenizer_with_pad(source, config)
    for name in names:
        shutil.copyfile(source / name, target / name)
    if pad.added:
        _grow_embedding(target, config, rows=pad.id + 1)
    for name in (CONFIG, WEIGHTS) if (source / ADAPTER_DIR).is_dir() else ():
        (target / ADAPTER_DIR).mkdir(exist_ok=True)
        shutil.copyfile(source / ADAPTER_DIR / name, target / ADAPTER_DIR / name)
    _write_config(source, target, pad)
    _save_tokenizer(tokenizer, target)
    for path in source.iterdir():
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE")):
            shutil.copyfile(path, target / path.name)
    return ModelFiles(tokenizer, pad, read_headers(target))


def check_source(source: Path) -> None:
    """Raise BundleError where a directory's files cannot be those of a scalar reward model; loads no weights."""
    if (source / CONFIG).is_file():
        raise BundleError(
            "this is a LoRA adapter, not a whole model",
            where=str(source),
            next_step="merge it into its base first: load both with peft, `merge_and_unload()`, `save_pretrained(DIR)`",
        )
    read_headers(source)
    check_head(source, load_config(source))


def tokenizer_with_pad(source: Path, config: PretrainedConfig) -> tuple[PreTrainedTokenizerBase, PadChoice]:
    """The tokenizer of a model directory with its pad token chosen. Raises BundleError where it does not fit."""
    tokenizer = load_tokenizer(str(source))
    rows = vocabulary_rows(config)
    check_vocabulary(tokenizer, rows, where=str(source))
    return tokenizer, choose_pad_token(tokenizer, rows)


def vocabulary_rows(config: PretrainedConfig) -> int:
    """Rows of the model's embedding."""
    return int(config.get_text_config().vocab_size)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, *, where: str) -> None:
    """Raise BundleError where the tokenizer gives ids that the embedding has no row for."""
    token, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= rows:
        raise BundleError(
            f"tokenizer and model disagree: token {token!r} has id {highest}, and the model has {rows} embeddings",
            where=where,
            next_step="put the tokenizer beside the model that it was trained with",
        )


def _write_config(source: Path, target: Path, pad: PadChoice) -> None:
    """config.json as it was, with the pad token, and the vocabulary where it grew. Models that wrap a text model keep
    these in `text_config` too."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    inner = config.get("text_config")
    for section in (config, inner) if isinstance(inner, dict) else (config,):
        section["pad_token_id"] = pad.id
        if pad.added and "vocab_size" in section:
            section["vocab_size"] = pad.id + 1
    config.pop("_name_or_path", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    written = load_config(target).get_text_config()
    if written.pad_token_id != pad.id:
        raise BundleError(
            f"the model's config takes {written.pad_token_id!r} as pad token instead of {pad.id}",
            where=str(source / "config.json"),
            why="plain transformers would read scores at the wrong token",
        )


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    tokenizer.save_pretrained(target)
    again = load_tokenizer(str(target))
    if tokenizer_hash(again) != tokenizer_hash(tokenizer) or again.pad_token_id != tokenizer.pad_token_id:
        raise BundleError(
            "the tokenizer is another one after it was saved and loaded",
            where=str(target),
            why="transformers writes it differently from how it reads it",
            next_step="save it with the installed transformers and check its text -> ids by hand, then try again",
        )


def _grow_embedding(directory: Path, config: PretrainedConfig, *, rows: int) -> None:
    """Give the input embedding `rows` rows in the files. New rows are zero: padding is masked, nothing reads them."""
    model = meta_model(config)
    weight = model.get_input_embeddings().weight
    name = next(n for n, p in model.named_parameters() if p is weight)
    # Files of older models leave the base model's prefix out.
    keys = [k for k in read_headers(directory) if k == name or name.endswith(f".{k}")]
    if len(keys) != 1:
        raise BundleError(
            f"the input embedding {name} is not in the weight files",
            where=str(directory),
            why="it needs one more row, for a pad token that no text contains",
            next_step="save the model with the installed transformers (`save_pretrained`) and try again",
        )
    key = keys[0]
    path = directory / read_headers(directory)[key].file
    with safe_open(path, framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - safe_open is no dict
        metadata = file.metadata()
    old = tensors[key]
    tensors[key] = torch.cat([old, old.new_zeros(rows - len(old), *old.shape[1:])])
    save_file(tensors, path, metadata=metadata or {"format": "pt"})
    _correct_index(directory, num_bytes=(tensors[key].nbytes - old.nbytes))


def _correct_index(directory: Path, *, num_bytes: int) -> None:
    path = directory / INDEX
    if path.is_file():
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "total_size" in index.get("metadata", {}):
            index["metadata"]["total_size"] += num_bytes
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
