"""Make a bundle of a published reward model: any sequence classifier with one label, local or on the Hub.

Called by `rmray import`. The weights stay as they are. What a bundle needs beside them is made here: a safe pad token,
render rules, reference statistics and goldens.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from rmray.data.render import RenderRules
from rmray.data.requests import read_requests
from rmray.errors import BundleError, DataError, ModelError
from rmray.models.bundle.classifier import load_config, plain_pooling
from rmray.models.bundle.export import BundleInfo, check_target, export_bundle
from rmray.models.bundle.files import check_source, tokenizer_with_pad
from rmray.models.heads import readout_of
from rmray.models.reward import Unfinished
from rmray.schema import ScoreRequest

logger = logging.getLogger(__name__)

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*", "NOTICE*"]
MAX_REFERENCE = 2000  # requests: a quantile of some thousand scores is known to about one in a hundred


def import_bundle(
    name_or_dir: str | Path,
    directory: str | Path,
    *,
    reference_file: str | Path | None,
    max_length: int | None = None,
    name: str | None = None,
    pooling: Literal["auto", "last", "first", "mean"] = "auto",
    columns: Mapping[str, str] | None = None,
    max_reference: int = MAX_REFERENCE,
    over_length: Literal["drop", "truncate_prompt"] = "drop",
    unfinished: Unfinished | None = None,
    license: str | None = None,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> BundleInfo:
    """Make the bundle `directory` of the model `name_or_dir` (a directory, or a Hub id).

    reference_file: rows with a prompt and its completion, completions, or chosen and rejected; the first
    `max_reference` of them normalise its rewards. It is required: scores of different models have no common scale.
    max_length: longest path in tokens; None for what the model was made for. pooling: `auto` reads where plain
    transformers does: a decoder at its last token, most encoders at their first. The rest as in `export_bundle`.
    Raises BundleError, ModelError or DataError.
    """
    check_target(Path(directory), overwrite=overwrite)
    if reference_file is None:
        raise ModelError(
            "importing a model needs a reference file",
            where=str(name_or_dir),
            why="rewards are scores normalised against a named set of records, and the model itself has no scale",
            next_step="give some hundred representative rows: a prompt with its completions, or chosen and rejected",
        )
    source = find_model(name_or_dir)
    check_source(source)
    config = load_config(source)
    if readout_of(config) is not None:
        raise BundleError(
            "the model judges tokens or steps, and what it reads as a step is not in its files",
            where=str(source),
            next_step="train it with rmray, which records how steps end (objective.name outcome or process)",
        )
    tokenizer, _ = tokenizer_with_pad(source, config)
    limit = longest_path(config, tokenizer)
    if max_length is not None and max_length < 1:
        raise ModelError(f"max_length is {max_length}, and a path has one token at least", where=str(source))
    if max_length is not None and limit is not None and max_length > limit:
        raise ModelError(f"max_length is {max_length}, and the model was made for {limit} tokens", where=str(source))
    length = limit if max_length is None else max_length
    if length is None:
        raise ModelError("the model does not say how long its input may be", next_step="give max_length (tokens)")
    rules = RenderRules.for_tokenizer(tokenizer, max_length=length, over_length=over_length)
    return export_bundle(
        source,
        directory,
        name=name or Path(str(name_or_dir)).name,
        objective="imported",
        pooling=plain_pooling(source)[0] if pooling == "auto" else pooling,
        rules=rules,
        reference=read_reference(reference_file, columns=columns, limit=max_reference),
        base=str(name_or_dir),
        reference_source=Path(reference_file).name,
        unfinished=unfinished,
        license=license or _license(source),
        overwrite=overwrite,
        device=device,
    )


def find_model(name_or_dir: str | Path) -> Path:
    """The directory itself, or that of a Hub model, of which safetensors, configs and tokenizer are downloaded."""
    name = str(name_or_dir)
    if name and Path(name).is_dir():
        return Path(name)
    try:
        directory = Path(snapshot_download(name, allow_patterns=MODEL_FILES, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            "no such model",
            where=name,
            why=str(error).strip().splitlines()[0],
            next_step="give a directory that exists, or the id of a model on the Hub that this machine can reach",
        ) from error
    if not any(directory.glob("*.safetensors")):
        # Pickles are not downloaded, but whoever asked should hear that they are what there is.
        pickles = [f for f in HfApi().list_repo_files(name) if f.endswith((".bin", ".pt", ".pth"))]
        raise BundleError(
            "the model has no safetensors weights" + (f", only pickles ({', '.join(pickles[:3])})" if pickles else ""),
            where=name,
            why="pickles can run code when they are loaded, and rmray reads safetensors only",
            next_step="if you trust their author, convert them: AutoModelForSequenceClassification.from_pretrained("
            "NAME, use_safetensors=False).save_pretrained(DIR), and import DIR",
        )
    return directory


def longest_path(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Most tokens the model and its tokenizer were made for, or None where neither says."""
    text = config.get_text_config()
    said = (getattr(text, "max_position_embeddings", None), tokenizer.model_max_length)
    # transformers writes 1e30 for "not said", and some models -1.
    return min((int(n) for n in said if n and 0 < n < 10**9), default=None)


def read_reference(path: str | Path, *, columns: Mapping[str, str] | None, limit: int) -> list[ScoreRequest]:
    """The first `limit` sound rows of a file as requests. Raises DataError where the file cannot be read."""
    requests: list[ScoreRequest] = []
    bad: Counter[str] = Counter()
    for _, _, request in read_requests(str(path), columns=columns):
        if isinstance(request, ScoreRequest):
            requests.append(request)
        else:
            bad[request.code] += 1
        if len(requests) == limit:
            break
    if not requests:
        raise DataError(
            "no row of the reference file can be scored",
            where=str(path),
            why=", ".join(f"{count} x {code}" for code, count in bad.items()),
            next_step="a row needs a prompt with `completion` or `completions`, or `chosen` and `rejected`",
        )
    if bad:
        logger.warning("%s: passed over %d bad rows (%s)", path, bad.total(), ", ".join(bad))
    return requests


def _license(source: Path) -> str | None:
    """The licence that a model card's header names, if there is one."""
    card = source / "README.md"
    if not card.is_file():
        return None
    for line in card.read_text(encoding="utf-8", errors="replace").split("---")[1:2]:
        for entry in line.splitlines():
            if entry.startswith("license:"):
                return entry.removeprefix("license:").strip().strip("\"'") or None
    return None
