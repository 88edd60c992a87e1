"""The card, README.md: what the model is, how to load it, what it is good for. Written by `export` and `publish`.

One builder for both: it writes what it knows. The short facts of every bundle come from its manifest; an evaluation,
the run's record and a licence make the card of a model that is published.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from rmray.errors import DataError
from rmray.models.bundle.card import sections
from rmray.models.bundle.card.facts import CardFacts, model_of
from rmray.models.bundle.card.figures import evaluation_section
from rmray.models.bundle.card.front_matter import front_matter
from rmray.models.bundle.card.kinds import kind_of, taken
from rmray.models.bundle.card.licences import License, license_of
from rmray.models.bundle.card.loading import loading
from rmray.models.bundle.card.markdown import code, md, public_name
from rmray.models.bundle.manifest import CARD_NAME, BundleManifest

__all__ = ["CardFacts", "License", "license_of", "model_of", "render_card", "write_card"]


def render_card(manifest: BundleManifest, facts: CardFacts | None = None) -> str:
    """The card as Markdown with its YAML header, which `huggingface_hub` has read once.

    Raises DataError: an evaluation of another model version, or one whose figures are not shaped as rmray writes them.
    """
    facts = facts or CardFacts()
    model = model_of(facts.evaluation, manifest.model_version) if facts.evaluation is not None else None
    try:
        header = front_matter(manifest, facts, model).to_yaml(line_break="\n")
        body = [
            f"# {md(facts.repo.split('/')[-1] if facts.repo else manifest.name)}",
            "",
            f"{_what(manifest)}: it reads {kind_of(manifest).gives.format(taken=taken(manifest))} {_origin(manifest)}",
            "",
            *evaluation_section(model, facts, records=kind_of(manifest).records),
            *loading(manifest, facts),
            *sections.rewards(manifest),
            *sections.uses(manifest),
            *sections.limits(manifest, model),
            *sections.training_data(manifest, facts),
            *sections.training(manifest, facts),
            *sections.licence(manifest, facts),
            sections.FILES if manifest.ensemble is None else sections.ENSEMBLE_FILES,
        ]
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        if facts.evaluation is None and facts.training is None:
            raise
        raise DataError(
            "the evaluation, or the record of the run, is not shaped as rmray writes it",
            why=f"{type(error).__name__}: {error}",
            next_step="evaluate the bundle again with this rmray",
        ) from error
    card = f"---\n{header}\n---\n\n" + "\n".join(body)
    ModelCard(card)  # raises where the header does not parse
    return card


def _what(manifest: BundleManifest) -> str:
    if manifest.ensemble is not None:
        return f"An ensemble of {len(manifest.ensemble.members)} reward models"
    return f"A reward model ({md(manifest.kind)})"


def _origin(manifest: BundleManifest) -> str:
    if manifest.objective == "imported":
        return f"Made of the published model {code(public_name(manifest.base_model))}, its weights as they were."
    return f"Trained with the objective {code(manifest.objective)}."


def write_card(directory: Path, manifest: BundleManifest, facts: CardFacts | None = None) -> None:
    """Write DIR/README.md."""
    (directory / CARD_NAME).write_text(render_card(manifest, facts), encoding="utf-8")
