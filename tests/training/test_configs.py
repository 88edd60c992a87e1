"""Every shipped training config trains: two steps of the bare engine, its own sizes, a tiny base, generated data."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rmray.config import TrainConfig, load_config
from rmray.data.chunks import StepSource
from rmray.data.prepare import rules_of
from rmray.data.prepared import ROW_COLUMNS, Row, rows_from_table
from rmray.data.render import Renderer
from rmray.data.sources.records import KINDS
from rmray.data.staging import RawLine, stage
from rmray.data.tokenizer import load_tokenizer
from rmray.data.world import write_world
from rmray.training.auto import Choices
from rmray.training.job import WorkerJob
from tests.data.prepared_sets import write_prepared
from tests.training.runs import PAD_ID, run_job

CONFIGS = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "jobs" / "configs").glob("*.yaml") if path.stem != "serve"
)
WORLD_FILES = {"comparison": "pairs", "ranking": "kwise", "outcome": "outcome", "process": "process"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(
        tmp_path_factory.mktemp("world"), num_prompts=160, num_test_prompts=32, num_rollouts=1, seed=0
    ).directory


def staged(path: Path, config: TrainConfig) -> list[Row]:
    """At most 40 rows of a file as `prepare` makes them."""
    tokenizer = load_tokenizer(config.model.base)
    rules = rules_of(config, tokenizer)
    with gzip.open(path) as file:
        lines = [RawLine(path.name, f"{path.stem[:16]:>16}:{n}", n, line) for n, line in enumerate(file, 1) if n <= 40]
    part = stage(
        lines, Renderer(tokenizer, rules), objective=config.objective.name, columns={}, margin=config.objective.margin
    )
    assert not part.quarantined
    return rows_from_table(part.table().select(ROW_COLUMNS.names))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_shipped_config_trains(path: Path, tmp_path: Path, tiny_base: Path, world: Path) -> None:
    overrides = [
        ("run.storage", str(tmp_path)),
        ("model.base", str(tiny_base)),
        ("optim.global_batch_size", "16"),
        ("optim.max_steps", "2"),
    ]
    config = load_config(TrainConfig, path, overrides)
    prepared, kind = tmp_path / "prepared", KINDS[config.objective.name]
    train, held_out = (staged(world / f"{WORLD_FILES[kind]}-{split}.jsonl.gz", config) for split in ("train", "test"))
    write_prepared(prepared, train, eval_rows=held_out[:8])
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
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [0, 1]
    assert all((line["pairs"] > line["comparisons"]) == (kind == "ranking") for line in steps)
    assert all((line["pairs"] == 0) == (kind in ("outcome", "process")) for line in steps)
    assert all(line["units"] >= line["comparisons"] for line in steps)
    assert any("eval_accuracy" in line for line in lines)
