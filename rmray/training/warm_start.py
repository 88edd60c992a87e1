"""Go on from a bundle instead of a base model: what is told, what must fit, which reference is kept. Called by
`trainer`, `worker` and `export`; no Ray.

A bundle is a sequence classifier with tokenizer, pad token and head, so that training takes it as any base. What
makes the new version comparable with the old one is seen to here: render rules, pooling and the reference records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rmray.config.train import TrainConfig
from rmray.data.render import RenderRules
from rmray.errors import ConfigError, ModelError
from rmray.models.bundle.import_model import MAX_REFERENCE, read_reference
from rmray.models.bundle.manifest import MANIFEST_NAME, BundleManifest, read_manifest
from rmray.models.bundle.reference import hash_of_requests, load_reference
from rmray.schema import ScoreRequest

LENGTH_RULES = ("max_length", "over_length")
"""Rules that successive versions may differ in: what fits both renders alike."""


def warm_start_of(base: str) -> BundleManifest | None:
    """The bundle that `model.base` is, None for any other model. Raises BundleError where it is damaged."""
    directory = Path(base)
    return read_manifest(directory) if (directory / MANIFEST_NAME).is_file() else None


def check_outside(run_dir: Path, config: TrainConfig) -> None:
    """Raise ConfigError where the run begins from files of its own directory, which it replaces."""
    base = Path(config.model.base)
    if base.exists() and run_dir.resolve() in base.resolve().parents:
        raise ConfigError(
            "the run would replace the bundle that it begins from",
            where=f"model.base: {base}",
            why=f"it lies in the run's own directory, {run_dir}",
            next_step="give the new version another run.name",
        )


def warnings(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Kind and text of what a run that begins from a bundle is told; nothing where it begins from a base model."""
    old = warm_start_of(config.model.base)
    if old is None:
        return
    yield (
        "warm_start",
        f"warm start: training goes on from the bundle {old.name}, version {old.model_version}. Where the policy has "
        "drifted from what this model was trained on, retraining from its base model, on old and new data, is the "
        "practice",
    )
    named = named_reference(config)
    if named is None or hash_of_requests(named[0]) != old.reference.hash:
        yield (
            "reference",
            f"rewards will not be comparable with those of {old.name}: that one is normalised against the reference "
            f"{old.reference.hash} ({old.reference.source}), this one against other records. Name the file of the old "
            "ones in data.reference",
        )
    aggregate = config.objective.score_aggregate
    if old.pooling == config.pooling and old.aggregate != aggregate:
        yield (
            "aggregate",
            f"scores are made otherwise than those of {old.name}: that one takes the {_taken(old.aggregate)} of a "
            f"completion's probabilities, this one the {_taken(aggregate)}, and thresholds on its rewards hold no "
            f"longer. Set objective.aggregate: {old.aggregate} to go on as before",
        )


def _taken(aggregate: str) -> str:
    return "least" if aggregate == "min" else aggregate


def check_rules(old: BundleManifest, config: TrainConfig, render_rules: Mapping[str, Any]) -> None:
    """Raise ModelError where the new version would read other text, or read it elsewhere, than the one it goes on from.

    render_rules: of the prepared set. How long rows may be is free.
    """
    before, now = ({**asdict(RenderRules(**rules))} for rules in (old.render_rules, dict(render_rules)))
    changed = [f"{name}: {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]
    changed = [line for line in changed if not line.startswith(tuple(f"{name}:" for name in LENGTH_RULES))]
    if old.pooling != config.pooling:
        changed.append(f"scores read at: {old.pooling} -> {config.pooling}")
    if changed:
        raise ModelError(
            "the bundle cannot be trained on: it was made by other rules",
            where=config.model.base,
            why="\n       ".join(changed),
            next_step="train with the bundle's rules, or from its base model",
        )


def named_reference(config: TrainConfig) -> tuple[list[ScoreRequest], str] | None:
    """The records that rewards are to be normalised against and where they come from: `data.reference`, else what the
    bundle that `model.base` is keeps of its own; None where neither names any.

    Raises DataError for a file without sound rows, BundleError where the bundle's records are damaged.
    """
    path = config.data.reference
    if path is not None:
        return read_reference(path, columns=config.data.columns, limit=MAX_REFERENCE), Path(path).name
    old = warm_start_of(config.model.base)
    kept = load_reference(Path(config.model.base), hash=old.reference.hash) if old else None
    return (kept, old.reference.source) if old and kept else None
