"""What rmray.json says about a bundle, and how its version is named. Written by `export`, read by `load`. No tensors.

DIR/rmray.json          this record, written last
DIR/reference.jsonl     the records that rewards are normalised against, for the model's successors
DIR/adapter/            a LoRA adapter and its head as peft loads them, where they are kept apart from the base
DIR/goldens.json        texts, the token ids they must render to, and the scores of the exported files
DIR/config.json, *.safetensors, tokenizer files   what plain transformers loads

Of an ensemble DIR/members/0, members/1, ... instead of the rest, each a whole bundle; see `members`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rmray import __version__
from rmray.errors import BundleError
from rmray.models.combine import Combination
from rmray.models.lora import ADAPTER_DIR
from rmray.models.lora import CONFIG as ADAPTER_CONFIG
from rmray.models.reward import Reference, Unfinished

BUNDLE_FORMAT = 1
MIN_RMRAY = "0.1.0"  # the first rmray that reads BUNDLE_FORMAT; an older one quotes it to its user
MANIFEST_NAME = "rmray.json"
GOLDENS_NAME = "goldens.json"
REFERENCE_NAME = "reference.jsonl"
CARD_NAME = "README.md"

PLAIN = "AutoModelForSequenceClassification"
PLAIN_TOKENS = "AutoModelForTokenClassification"
WITH_PEFT = "peft.PeftModel"
RMRAY_ONLY = "rmray"
ENSEMBLE = "ensemble"


@dataclass(frozen=True, slots=True)
class EnsembleOf:
    """members: model version of each, in order. combination: how their rewards become one score."""

    members: tuple[str, ...]
    combination: Combination

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> EnsembleOf:
        members = tuple(raw["members"])
        if not members or not all(isinstance(version, str) for version in members):
            raise ValueError("an ensemble has members, by their versions")
        return cls(members, Combination(**raw["combination"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """rmray.json, field by field.

    format: of this record; min_rmray: the first rmray that reads it; created_by: the rmray that wrote it.
    kind: `scalar`, `outcome`, `process`, `ensemble`. objective: the training objective, or `imported`. pooling: `last`,
    `mean`, `first`; of outcome models `tokens`, of process models `steps`. aggregate: what makes one raw score of such
    models' probabilities, `mean`, `min` or (its logarithm) `product`; empty for a scalar.
    loads_with: the transformers class that gives the same scores, peft's where it is to read the adapter, or `rmray`.
    head: the head's weight in the files. head_trained: False for one that was never trained, which is never served.
    dtype: of the weights in the files. render_rules: `RenderRules` as a dict. pad: how the pad token was chosen.
    files: name -> sha256 of every other file of the bundle but its card. model_version: see `model_version_of`.
    data_hashes: name -> hash of what it was trained on. metrics: of the training run, by name. warm_start: version of
    the bundle that training went on from, "" where it began from a base model. ensemble: what one is made of, None of
    any other kind.
    """

    name: str
    kind: str
    objective: str
    pooling: str
    loads_with: str
    head: str
    head_trained: bool
    dtype: str
    render_rules: dict[str, Any]
    tokenizer_hash: str
    pad: dict[str, Any]
    unfinished: Unfinished
    reference: Reference
    base_model: str
    data_hashes: dict[str, str]
    metrics: dict[str, float | None]
    license: str | None
    files: dict[str, str]
    model_version: str
    warm_start: str = ""
    ensemble: EnsembleOf | None = None
    format: int = BUNDLE_FORMAT
    min_rmray: str = MIN_RMRAY
    created_by: str = f"rmray {__version__}"
    aggregate: str = ""


def read_manifest(directory: Path) -> BundleManifest:
    """Read DIR/rmray.json. Raises BundleError: no bundle, damaged, or of another format."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(
            "not a bundle",
            where=str(directory),
            why=f"it has no {MANIFEST_NAME}",
            next_step="train one, or make one of a published reward model with `rmray import`",
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = raw["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if found != BUNDLE_FORMAT:
        newer = isinstance(found, int) and found > BUNDLE_FORMAT
        reader = raw.get("min_rmray")
        raise BundleError(
            f"the bundle has format {found!r}, and rmray {__version__} reads format {BUNDLE_FORMAT}",
            where=str(path),
            next_step=(
                f"install rmray {reader or 'in a newer version'}{' or newer' if reader else ''}, which reads it"
                if newer
                else "export or import the model again"
            ),
        )
    try:
        known = {f.name for f in fields(BundleManifest)}
        raw = {k: v for k, v in raw.items() if k in known}
        raw["unfinished"] = Unfinished(**raw["unfinished"])
        raw["reference"] = Reference.from_json(raw["reference"])
        if (raw.get("ensemble") is not None) != (raw["kind"] == ENSEMBLE):
            raise ValueError(f"of the kind {raw['kind']!r}, with {raw.get('ensemble')!r:.40} as its members")
        if raw.get("ensemble") is not None:
            raw["ensemble"] = EnsembleOf.from_json(raw["ensemble"])
        return BundleManifest(**raw)
    except (KeyError, TypeError, ValueError, BundleError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BundleError:
    return BundleError(
        "the bundle's manifest is damaged",
        where=str(path),
        why=f"{type(error).__name__}: {error}",
        next_step="copy the bundle again from where it was made",
    )


def write_manifest(directory: Path, manifest: BundleManifest) -> None:
    """Write DIR/rmray.json. A metric that is not finite becomes null: JSON has no NaN."""
    raw = asdict(manifest)
    raw["metrics"] = {k: finite_or_none(v) for k, v in manifest.metrics.items()}
    text = json.dumps(raw, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    (directory / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def finite_or_none(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(directory: Path) -> dict[str, str]:
    """Relative name -> sha256 of every file of a bundle except its manifest and its card, which people may edit."""
    unhashed = (MANIFEST_NAME, CARD_NAME)
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name not in unhashed)
    return {p.relative_to(directory).as_posix(): sha256_of_file(p) for p in paths}


def check_files(directory: Path, files: Mapping[str, str], *, hashes: bool = True) -> None:
    """Raise BundleError, naming all, where files are missing or (where `hashes`) have another hash than recorded."""
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        raise BundleError(
            f"the bundle lacks {', '.join(missing)}",
            where=str(directory),
            next_step="copy the bundle again from where it was made",
        )
    if not hashes:
        return
    changed = [name for name, expected in files.items() if sha256_of_file(directory / name) != expected]
    if changed:
        raise BundleError(
            f"{', '.join(changed)} changed after the bundle was made",
            where=str(directory),
            why="the sha256 differs from the one in rmray.json",
            next_step="copy the bundle again, or export it anew where the change was meant",
        )


def model_version_of(
    files: Mapping[str, str],
    *,
    tokenizer_hash: str,
    render_rules: Mapping[str, Any],
    pooling: str,
    unfinished: Unfinished,
    reference_hash: str,
    aggregate: str = "",
) -> str:
    """16 hex: content hash of the weights, the model's config and every rule that decides a reward.

    Names, dates, metrics, and where the model came from do not count: the same model exported twice is one version.
    """
    rules = {
        "weights": {name: digest for name, digest in files.items() if name.endswith(".safetensors")},
        "config": files["config.json"],
        "tokenizer": tokenizer_hash,
        "render_rules": dict(render_rules),
        "pooling": pooling,
        "unfinished": asdict(unfinished),
        "reference": reference_hash,
        "aggregate": aggregate,
    }
    if adapter := files.get(f"{ADAPTER_DIR}/{ADAPTER_CONFIG}"):  # which holds the scale
        rules["adapter"] = adapter
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def ensemble_version_of(ensemble: EnsembleOf, *, reference_hash: str) -> str:
    """16 hex: content hash of the members' versions in their order, of how they combine and of the reference set."""
    rules = {
        "members": list(ensemble.members),
        "combination": ensemble.combination.decides(),
        "reference": reference_hash,
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:16]


def version_of(manifest: BundleManifest) -> str:
    """The version that follows from what the manifest says."""
    if manifest.ensemble is not None:
        return ensemble_version_of(manifest.ensemble, reference_hash=manifest.reference.hash)
    return model_version_of(
        manifest.files,
        tokenizer_hash=manifest.tokenizer_hash,
        render_rules=manifest.render_rules,
        pooling=manifest.pooling,
        unfinished=manifest.unfinished,
        reference_hash=manifest.reference.hash,
        aggregate=manifest.aggregate,
    )
