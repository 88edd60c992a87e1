"""Load a bundle as a Scorer, after proving that it is whole and still the model it was. Used wherever a bundle is.

The checks go from cheap to dear, and each refuses with what is wrong: format, files, hashes, tokenizer, weights, and
last the goldens, which must render to the same ids and score the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rmray.data.batch import TOKEN_READOUTS
from rmray.data.render import Renderer, RenderRules
from rmray.data.tokenizer import load_tokenizer, tokenizer_hash
from rmray.errors import BundleError
from rmray.models.backbone import RewardBackbone
from rmray.models.bundle.classifier import head_to_float32, load_classifier, load_config
from rmray.models.bundle.files import check_vocabulary, vocabulary_rows
from rmray.models.bundle.goldens import check_goldens, load_goldens
from rmray.models.bundle.manifest import (
    ENSEMBLE,
    MANIFEST_NAME,
    BundleManifest,
    EnsembleOf,
    check_files,
    read_manifest,
    version_of,
)
from rmray.models.bundle.members import member_dir, read_members
from rmray.models.bundle.weights import read_headers
from rmray.models.ensemble import EnsembleScorer
from rmray.models.head_scorer import HeadScorer, RequestEncoder
from rmray.models.memory import keep_freed_memory
from rmray.models.probe import check_packed
from rmray.models.reward import Reference
from rmray.models.scorer import Scorer, ScorerInfo
from rmray.models.token_scorer import TokenScorer

KINDS = ("scalar", "outcome", "process", ENSEMBLE)


def load_bundle(
    directory: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, check: bool = True
) -> Scorer:
    """Load DIR on `device`, ready to score: a HeadScorer, a TokenScorer, or an EnsembleScorer of its members.

    dtype: of the base model's weights, None for float32 on a CPU and bfloat16 on an accelerator that has it; the head
    is float32 always. check: hash the files and score the goldens; without it only what is quick is checked, for a
    bundle that this process has just made or loaded.
    Raises BundleError: not a bundle, of another format, damaged, incomplete, never trained, or unlike its goldens.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    check_manifest(directory, manifest)
    device = torch.device(device)
    dtype = dtype or default_dtype(device)
    if manifest.ensemble is not None:
        return _load_ensemble(directory, manifest, manifest.ensemble, device=device, dtype=dtype, check=check)
    return load_head(directory, manifest, device=device, dtype=dtype, check=check)


def load_head(
    directory: Path, manifest: BundleManifest, *, device: torch.device, dtype: torch.dtype, check: bool
) -> HeadScorer | TokenScorer:
    """As `load_bundle`, of a bundle with a model of its own, whose manifest has been looked at."""
    read_headers(directory)
    check_files(directory, manifest.files, hashes=check)
    encoder = load_encoder(directory, manifest)
    scorer = open_scorer(
        directory,
        encoder,
        name=manifest.name,
        kind=manifest.kind,
        pooling=manifest.pooling,
        aggregate=manifest.aggregate,
        reference=manifest.reference,
        model_version=manifest.model_version,
        device=device,
        dtype=dtype,
    )
    if check:
        std = None if is_exact(device, dtype) else manifest.reference.std
        check_goldens(load_goldens(directory), scorer, std=std, where=str(directory))
    return scorer


def _load_ensemble(
    directory: Path,
    manifest: BundleManifest,
    ensemble: EnsembleOf,
    *,
    device: torch.device,
    dtype: torch.dtype,
    check: bool,
) -> EnsembleScorer:
    members = read_members(directory, manifest, ensemble)
    for m, member in enumerate(members):
        check_manifest(member_dir(directory, m), member)
    scorers = [
        load_head(member_dir(directory, m), member, device=device, dtype=dtype, check=check)
        for m, member in enumerate(members)
    ]
    first = scorers[0].info
    return EnsembleScorer(
        scorers,
        references=[member.reference for member in members],
        combination=ensemble.combination,
        info=ScorerInfo(
            manifest.name,
            manifest.kind,
            manifest.model_version,
            manifest.reference.hash,
            first.tokenizer_hash,
            first.max_length,
        ),
        reference=manifest.reference,
        unfinished=manifest.unfinished,
    )


def default_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on an accelerator that computes in it, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def is_exact(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether scores must be those of the goldens to rounding: the kind of device and the dtype that made them."""
    return device.type == "cpu" and dtype == torch.float32


def open_scorer(
    directory: Path,
    encoder: RequestEncoder,
    *,
    name: str,
    kind: str,
    pooling: str,
    aggregate: str,
    reference: Reference,
    model_version: str,
    device: torch.device,
    dtype: torch.dtype,
) -> HeadScorer | TokenScorer:
    """The Scorer of model files that have been looked at; raises BundleError as `load_classifier` does."""
    if device.type == "cpu":
        keep_freed_memory()
    model = load_classifier(directory, dtype=dtype)
    head_to_float32(model, directory)
    backbone = RewardBackbone(model, pooling=pooling).to(device).eval()
    check_packed(backbone)
    info = ScorerInfo(
        name, kind, model_version, reference.hash, encoder.tokenizer_hash, encoder.renderer.rules.max_length
    )
    if pooling in TOKEN_READOUTS:
        return TokenScorer(
            backbone, encoder, info=info, pooling=pooling, aggregate=aggregate, reference=reference, device=device
        )
    return HeadScorer(backbone, encoder, info=info, pooling=pooling, reference=reference, device=device)


def check_manifest(directory: Path, manifest: BundleManifest) -> None:
    """Raise BundleError where the manifest is of a model that is not served, or was edited after it was written."""
    where = str(directory / MANIFEST_NAME)
    if manifest.kind not in KINDS:
        raise BundleError(
            f"the bundle is of the kind {manifest.kind!r}, which this rmray does not score",
            where=where,
            why=f"it scores {', '.join(KINDS)}",
            next_step="install a newer rmray",
        )
    if not manifest.head_trained:
        raise BundleError(
            "the bundle's head was never trained: its rewards are noise",
            where=where,
            next_step="train it first (`rmray train`)",
        )
    version = version_of(manifest)
    if version != manifest.model_version:
        raise BundleError(
            f"the bundle calls itself {manifest.model_version}, and its contents make it {version}",
            where=where,
            why="the manifest was edited after the bundle was made",
            next_step="export or import the model again with the rules that are meant",
        )


def load_encoder(directory: Path, manifest: BundleManifest) -> RequestEncoder:
    """The bundle's tokenizer and rules, after the checks that need no weights. Raises BundleError."""
    tokenizer = load_tokenizer(str(directory))
    config = load_config(directory)
    check_vocabulary(tokenizer, vocabulary_rows(config), where=str(directory))
    found = tokenizer_hash(tokenizer)
    if found != manifest.tokenizer_hash:
        raise BundleError(
            f"the tokenizer is {found}, and the bundle was made with {manifest.tokenizer_hash}",
            where=str(directory),
            why="the tokenizer's files differ, or this version of transformers reads them differently",
            next_step=f"copy the bundle again, or install what made it ({manifest.created_by}; see goldens.json)",
        )
    pad = config.get_text_config().pad_token_id
    rules = _render_rules(directory, manifest.render_rules)
    if not pad == rules.pad_id == tokenizer.pad_token_id:
        raise BundleError(
            f"config.json pads with {pad}, the tokenizer with {tokenizer.pad_token_id}, the rules with {rules.pad_id}",
            where=str(directory),
            why="plain transformers would read scores at the wrong token",
            next_step="export or import the model again",
        )
    return RequestEncoder(Renderer(tokenizer, rules), tokenizer_hash=found, unfinished=manifest.unfinished)


def _render_rules(directory: Path, raw: dict[str, Any]) -> RenderRules:
    try:
        return RenderRules(**raw)
    except TypeError as error:
        raise BundleError(
            "the bundle's render rules are not those of this rmray",
            where=str(directory / MANIFEST_NAME),
            why=str(error),
            next_step="install the rmray that made the bundle, or export it again",
        ) from error
