"""Write a bundle from a model directory. Used by training, when a run ends, and by `import_bundle`.

Everything is written under a temporary name in the same parent folder, hashed, and renamed last: a directory with the
bundle's name is a whole bundle.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from rmray.data.render import Renderer, RenderRules
from rmray.data.tokenizer import PadChoice, template_hash, tokenizer_hash
from rmray.errors import BundleError
from rmray.models.bundle.card import write_card
from rmray.models.bundle.classifier import plain_pooling
from rmray.models.bundle.files import copy_model
from rmray.models.bundle.goldens import check_goldens
from rmray.models.bundle.load import is_exact, open_scorer
from rmray.models.bundle.make_goldens import make_goldens
from rmray.models.bundle.manifest import (
    MANIFEST_NAME,
    PLAIN,
    PLAIN_TOKENS,
    RMRAY_ONLY,
    WITH_PEFT,
    BundleManifest,
    hash_files,
    model_version_of,
    write_manifest,
)
from rmray.models.bundle.probes import choose_goldens
from rmray.models.bundle.reference import reference_statistics, save_reference
from rmray.models.bundle.weights import main_dtype
from rmray.models.head_scorer import RequestEncoder
from rmray.models.heads import find_head
from rmray.models.lora import ADAPTER_DIR
from rmray.models.reward import UNNORMALISED, Unfinished
from rmray.schema import ScoreRequest

KIND_OF = {"tokens": "outcome", "steps": "process"}
"""By pooling, for models that give several scores a completion; others are `scalar`."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """A bundle that was written."""

    directory: Path
    manifest: BundleManifest
    num_goldens: int

    @property
    def model_version(self) -> str:
        return self.manifest.model_version


def export_bundle(
    model_dir: str | Path,
    directory: str | Path,
    *,
    name: str,
    objective: str,
    pooling: str,
    rules: RenderRules,
    reference: Sequence[ScoreRequest],
    goldens: Sequence[ScoreRequest] = (),
    base: str = "",
    data_hashes: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    reference_source: str = "held-out comparisons",
    unfinished: Unfinished | None = None,
    license: str | None = None,
    pad: PadChoice | None = None,
    warm_start: str = "",
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    aggregate: str = "",
) -> BundleInfo:
    """Make the bundle DIR from a classifier in Hugging Face layout (safetensors, config.json, tokenizer).

    reference: requests whose scores rewards are normalised against. goldens: requests kept with their ids and scores;
    none: a few are chosen from `reference`, beside fixed probes. rules: how training rendered. base, data_hashes,
    metrics, license: for readers. pad: how the pad token was chosen, where that was before training: the trained
    model's tokenizer has it already. warm_start: version of the bundle that training went on from. overwrite: replace
    an existing bundle. device: where `reference` is scored; goldens are scored by plain transformers on the CPU in its
    own process, and by rmray's forward, which must agree. pooling: its kind follows (`KIND_OF`). aggregate: what makes
    a score of an outcome or process model's probabilities.
    Raises BundleError: files that are no reward model, a reference that cannot normalise, or disagreement.
    """
    source, directory = Path(model_dir), Path(directory)
    check_target(directory, overwrite=overwrite)
    work = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise BundleError("cannot write here", where=str(directory), why=str(error)) from error
    try:
        files = copy_model(source, work)
        if pad is not None and (pad.token, pad.id) != (files.pad.token, files.pad.id):
            raise BundleError(
                f"the pad token is {files.pad.token!r} ({files.pad.id}), and {pad.token!r} ({pad.id}) was chosen",
                where=str(source),
                why="the base model, or its tokenizer, has changed since training began",
            )
        rules = replace(rules, pad_id=files.pad.id)
        if rules.template_hash != template_hash(files.tokenizer):
            raise BundleError(
                "the render rules are those of another tokenizer: the chat templates differ",
                where=str(source),
                why=f"rules {rules.template_hash}, tokenizer {template_hash(files.tokenizer)}",
            )
        encoder = RequestEncoder(
            Renderer(files.tokenizer, rules),
            tokenizer_hash=tokenizer_hash(files.tokenizer),
            unfinished=unfinished or Unfinished(),
        )
        chosen = choose_goldens(encoder, goldens, reference)
        # Before the model is loaded here, so that the two processes do not hold it at the same time.
        made = make_goldens(encoder, chosen, work, pooling=pooling)
        device = torch.device(device)
        scorer = open_scorer(
            work,
            encoder,
            name=name,
            kind=KIND_OF.get(pooling, "scalar"),
            pooling=pooling,
            aggregate=aggregate,
            reference=UNNORMALISED,
            model_version="",
            device=device,
            dtype=torch.float32,
        )
        statistics = reference_statistics(scorer, reference, source=reference_source)
        exact = is_exact(device, torch.float32)
        check_goldens(made, scorer, std=None if exact else statistics.std, where=str(source))
        made.save(work)
        save_reference(work, reference)
        manifest = BundleManifest(
            name=name,
            kind=KIND_OF.get(pooling, "scalar"),
            objective=objective,
            pooling=pooling,
            aggregate=aggregate,
            loads_with=_loads_with(work, pooling),
            head=find_head(scorer.backbone.model)[0],
            head_trained=True,
            dtype=main_dtype(files.headers),
            render_rules=asdict(rules),
            tokenizer_hash=encoder.tokenizer_hash,
            pad=asdict(pad or files.pad),
            unfinished=encoder.unfinished,
            reference=statistics,
            base_model=base,
            data_hashes=dict(data_hashes or {}),
            metrics=dict(metrics or {}),
            license=license,
            files={},
            model_version="",
            warm_start=warm_start,
        )
        manifest = sealed(work, manifest)
        write_manifest(work, manifest)
        write_card(work, manifest)
        put_in_place(work, directory, overwrite=overwrite)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return BundleInfo(directory, manifest, len(made.items))


def _loads_with(work: Path, pooling: str) -> str:
    if pooling != plain_pooling(work)[0]:
        return RMRAY_ONLY
    if (work / ADAPTER_DIR).is_dir():
        return WITH_PEFT
    return PLAIN_TOKENS if pooling in KIND_OF else PLAIN


def check_target(directory: Path, *, overwrite: bool) -> None:
    """Raise BundleError where `directory` is in use and may not be replaced: nothing but a bundle ever is."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not (directory / MANIFEST_NAME).is_file():
        raise BundleError(
            "there is something already, and it is no bundle",
            where=str(directory),
            next_step="choose another directory; --overwrite replaces bundles only",
        )
    if not overwrite:
        raise BundleError(
            "there is a bundle already",
            where=str(directory),
            next_step="choose another directory, or replace this bundle with --overwrite",
        )


def sealed(work: Path, manifest: BundleManifest) -> BundleManifest:
    """The manifest with the hashes of what lies in `work`, and the version that follows from them."""
    files = hash_files(work)
    version = model_version_of(
        files,
        tokenizer_hash=manifest.tokenizer_hash,
        render_rules=manifest.render_rules,
        pooling=manifest.pooling,
        unfinished=manifest.unfinished,
        reference_hash=manifest.reference.hash,
        aggregate=manifest.aggregate,
    )
    return replace(manifest, files=files, model_version=version)


def put_in_place(work: Path, directory: Path, *, overwrite: bool) -> None:
    """Give the finished folder `work` its name, in place of an older directory where `overwrite`."""
    old = work.with_suffix(".old")
    if overwrite and directory.exists():
        os.rename(directory, old)
    try:
        os.rename(work, directory)
    except OSError as error:
        if old.exists():
            os.rename(old, directory)
        raise BundleError(
            "what was written cannot take its name",
            where=str(directory),
            why=str(error),
            next_step="choose another directory",
        ) from error
    shutil.rmtree(old, ignore_errors=True)
