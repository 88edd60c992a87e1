"""One small trained-looking model, and the bundle exported from it, shared by the session; tests damage copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmray.schema import ScoreRequest

REFERENCE = [
    ScoreRequest(prompt=f"Question: what is {a} plus three? ", completions=(f"Answer: {a + 3}.", "I do not know it."))
    for a in range(20)
] + [
    ScoreRequest(
        prompt=({"role": "user", "content": f"Please write {a} polite answers."},),
        completions=("Thank you for asking. " * (1 + a % 3), "No.", "The answer is wrong"),
    )
    for a in range(10)
]

GOLDENS = [
    ScoreRequest(prompt="The quick brown fox ", completions=("jumps over the lazy dog.", "rests.")),
    ScoreRequest(
        prompt=({"role": "user", "content": "What is two plus three?"},),
        completions=("Five.", "It is five, of course."),
    ),
]


def save_classifier(base: Path, directory: Path, *, num_labels: int = 1, dtype: Any = None, shard: str = "1GB") -> Path:
    """A sequence classifier over the weights of `base`, its head and attention scaled so that scores differ well."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels, dtype=torch.float32)
    with torch.no_grad():
        model.score.weight.normal_()
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(8)
    model.to(dtype or torch.float32).save_pretrained(directory, max_shard_size=shard)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def save_token_classifier(base: Path, directory: Path, pooling: str) -> Path:
    """A token classifier over the weights of `base` as training saves it, attention and head scaled likewise."""
    import torch
    from transformers import AutoTokenizer

    from rmray.models.base import load_reward_model

    model = load_reward_model(base, dtype=torch.float32, pad_id=0, seed=0, pooling=pooling)
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(1))
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(8)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def model_dir(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tiny_base, tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="session")
def export(model_dir: Path) -> Callable[..., Any]:
    """export(directory, **options): `export_bundle` of the session's model with the rest filled in."""
    from rmray.data.render import RenderRules
    from rmray.data.tokenizer import load_tokenizer
    from rmray.models.bundle import export_bundle

    def run(directory: Path, *, source: Path = model_dir, **options: Any) -> Any:
        rules = RenderRules.for_tokenizer(load_tokenizer(str(source)), max_length=200)
        filled = {"name": "tiny", "objective": "bradley_terry", "pooling": "last", "rules": rules, "base": "tiny-base"}
        filled |= {
            "reference": REFERENCE,
            "goldens": GOLDENS,
            "data_hashes": {"train": "abc"},
            "metrics": {"loss": 0.5},
        }
        return export_bundle(source, directory, **{**filled, **options})

    return run


@pytest.fixture(scope="session")
def bundle_dir(export: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle; read-only, the session shares it."""
    directory = tmp_path_factory.mktemp("bundles") / "tiny"
    export(directory)
    return directory


@pytest.fixture(scope="session")
def scorer(bundle_dir: Path) -> Any:
    from rmray.models.bundle import load_bundle

    return load_bundle(bundle_dir)


@pytest.fixture
def damaged(bundle_dir: Path, tmp_path: Path) -> Path:
    """A copy of the sound bundle, to be damaged."""
    return Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def reseal(directory: Path) -> None:
    """Make hashes and version fit what lies in `directory`, so that a test reaches the check behind them."""
    from dataclasses import replace

    from rmray.models.bundle.export import sealed
    from rmray.models.bundle.manifest import read_manifest, write_manifest

    write_manifest(directory, sealed(directory, replace(read_manifest(directory), files={})))


@pytest.fixture(scope="session")
def member_dirs(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three sound bundles that differ in their heads; read-only."""
    from tests.models.bundle.members import make_member

    directory = tmp_path_factory.mktemp("members")
    return [bundle_dir, *(make_member(bundle_dir, directory / str(seed), seed=seed) for seed in (1, 2))]


@pytest.fixture(scope="session")
def ensemble_dir(member_dirs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their ensemble, by the mean; read-only."""
    from rmray.models.bundle import build_ensemble

    directory = tmp_path_factory.mktemp("ensembles") / "three"
    build_ensemble(member_dirs, directory, name="three", reference=REFERENCE)
    return directory


@pytest.fixture(scope="session")
def token_bundles(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, export: Callable[..., Any]
) -> dict[str, Path]:
    """A bundle of an outcome and one of a process model; read-only."""
    from rmray.data.render import RenderRules
    from rmray.data.tokenizer import load_tokenizer
    from tests.models.bundle.token_requests import KINDS, SOLUTIONS

    found = {}
    for kind, pooling in KINDS.items():
        root = tmp_path_factory.mktemp(kind)
        source = save_token_classifier(tiny_base, root / "model", pooling)
        found[kind] = root / "bundle"
        export(
            found[kind],
            source=source,
            objective=kind,
            pooling=pooling,
            aggregate="mean" if kind == "outcome" else "min",
            rules=RenderRules.for_tokenizer(
                load_tokenizer(str(source)), max_length=200, step_separator="\n" if kind == "process" else None
            ),
            reference=SOLUTIONS if kind == "process" else REFERENCE,
            goldens=SOLUTIONS[:2] if kind == "process" else REFERENCE[:2],
        )
    return found
