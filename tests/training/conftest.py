"""What the suites of this folder share: one whole run through Ray, left alone, as a fit costs half a minute; and sets
that can be learnt in a few steps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rmray.config.train import TrainConfig
from rmray.models.tiny_base import build_tiny_base
from rmray.training.trainer import TrainOutcome, train
from tests.conftest import TINY_TEXTS

if TYPE_CHECKING:
    from tests.training.chain import Version

ANIMALS = ("fox", "dog", "cat", "owl", "bee", "ant", "hen", "elk")


def write_preferences(path: Path, num_rows: int) -> None:
    """Answers that name the animal asked for are better than those that name another."""
    rng = random.Random(0)
    rows = []
    for i in range(num_rows):
        asked, other = rng.sample(ANIMALS, 2)
        prompt = f"Question {i // 2}: which animal is the {asked}? "
        rows.append({"prompt": prompt, "chosen": f"the {asked}.", "rejected": f"the {other}."})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def run_config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """40 steps on two ZeRO-3 workers, a checkpoint at every fifth; a base of 1.5M parameters, so that saving it takes
    long enough to be broken off."""
    directory = tmp_path_factory.mktemp("train")
    base = build_tiny_base(directory / "base", TINY_TEXTS * 4, layers=2, hidden=256, vocab_size=400)
    write_preferences(directory / "pairs.jsonl", 200)
    return TrainConfig.model_validate(
        {
            "run": {"name": "tiny", "storage": str(directory / "runs")},
            "data": {"train": [str(directory / "pairs.jsonl")], "holdout": 0.2, "max_length": 64},
            "model": {"base": str(base)},
            "optim": {"lr": 1e-3, "global_batch_size": 4},
            "workers": {"num": 2, "zero_stage": 3, "timeout_s": 60},
            "checkpoint": {"every_steps": 5, "keep": 2},
            "evaluate": {"every_steps": 10, "report_comparisons": 0},
        }
    )


@pytest.fixture(scope="session")
def outcome(run_config: TrainConfig, ray_cluster: None) -> TrainOutcome:
    """That run, from its start to its bundle and its report, undisturbed."""
    return train(with_report(run_config))


def with_report(config: TrainConfig) -> TrainConfig:
    """The same run with a report at its end; the others do without, which is quicker."""
    evaluate = config.evaluate.model_copy(update={"report_comparisons": 20})
    return config.model_copy(update={"evaluate": evaluate})


@pytest.fixture(scope="session")
def versions(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Version]:
    """Two successive versions, without Ray; read-only."""
    from tests.training.chain import two_versions

    return two_versions(tmp_path_factory.mktemp("versions"), tiny_base)


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and sets that can be learnt in 40 steps, or cannot: those of `learnable.write_sets`."""
    from tests.training.learnable import write_sets

    directory = tmp_path_factory.mktemp("runs")
    write_sets(directory)
    return directory
