"""Every shipped config trains: two steps of the bare engine, with its own sizes but a tiny base and generated data."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmray.config import TrainConfig, load_config
from rmray.data.chunks import StepSource
from rmray.training.auto import Choices
from rmray.training.job import WorkerJob
from tests.data.prepared_sets import random_rows, write_prepared
from tests.training.runs import PAD_ID, run_job

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "jobs" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_shipped_config_trains(path: Path, tmp_path: Path, tiny_base: Path) -> None:
    overrides = [
        ("run.storage", str(tmp_path)),
        ("model.base", str(tiny_base)),
        ("optim.global_batch_size", "16"),
        ("optim.max_steps", "2"),
    ]
    config = load_config(TrainConfig, path, overrides)
    prepared = tmp_path / "prepared"
    write_prepared(prepared, random_rows(40, seed=1), eval_rows=random_rows(8, seed=2))
    run_dir = tmp_path / config.run.name
    run_dir.mkdir()
    job = WorkerJob(
        run_dir=str(run_dir),
        config=config,
        choices=Choices("cpu", False, 0, config.model.gradient_checkpointing is True, 4096),
        source=StepSource(str(prepared), config.run.seed, 16, 4096, config.optim.epochs, config.optim.max_steps),
        num_steps=2,
        pad_id=PAD_ID,
        identity={"name": config.run.name},
    )
    lines = run_job(job, deepspeed=False)
    assert [line["step"] for line in lines if "loss" in line] == [0, 1]
    assert any("eval_accuracy" in line for line in lines)
