"""Bundles to combine: sound ones of one tokenizer and reference set, made of an exported one without another export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rmray.models.bundle import load_bundle
from rmray.models.bundle.export import sealed
from rmray.models.bundle.manifest import GOLDENS_NAME, read_manifest, write_manifest
from rmray.models.bundle.reference import reference_statistics
from rmray.models.scorer import score_requests
from rmray.schema import ScoreRequest
from tests.models.bundle.conftest import REFERENCE


def make_member(bundle: Path, directory: Path, *, seed: int, reference: Sequence[ScoreRequest] = REFERENCE) -> Path:
    """A copy with a head of its own, and the goldens and reference statistics that belong to it."""
    shutil.copytree(bundle, directory)
    weights = load_file(directory / "model.safetensors")
    weights["score.weight"] = torch.randn(weights["score.weight"].shape, generator=torch.manual_seed(seed))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    manifest = read_manifest(directory)
    write_manifest(directory, sealed(directory, manifest))
    scorer = load_bundle(directory, check=False)
    write_goldens(directory, scorer)
    statistics = reference_statistics(scorer, reference, source="held-out comparisons")
    write_manifest(directory, sealed(directory, replace(manifest, reference=statistics)))
    return directory


def write_goldens(directory: Path, scorer) -> None:
    from rmray.models.bundle.goldens import load_goldens

    goldens = load_goldens(directory)
    responses = score_requests(scorer, [golden.request for golden in goldens.items])
    raws = [[result.raw for result in response.results] for response in responses]
    assert len(list(chain(*raws))) == len(goldens.scores)
    found = [tuple((value,) for value in raw) for raw in raws]
    items = [replace(golden, scores=scores) for golden, scores in zip(goldens.items, found, strict=True)]
    replace(goldens, items=tuple(items)).save(directory)
    assert json.loads((directory / GOLDENS_NAME).read_text())["items"]
