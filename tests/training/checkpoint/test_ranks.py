"""Two ranks save together, in shards of their own; one rank loads it. And a rank that fails fails the save of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rmray.errors import TrainingError
from rmray.training.checkpoint import CheckpointStore
from rmray.training.engine import DeepSpeedEngine, EngineSettings
from tests.spawn import run_ranks
from tests.training.checkpoint.helpers import FailingFiles, make_writer, state_at, train, trained
from tests.training.toys import ToyBackbone


def save_sharded(rank: int, world_size: int, where: str) -> dict[str, Any]:
    """Saves in the background while training goes on; then lets each rank's disk fail in turn."""
    engine = DeepSpeedEngine(lambda gather: ToyBackbone(), EngineSettings(zero_stage=3))
    train(engine, 2)
    files = FailingFiles(where)
    told: list[Any] = []
    settings: dict[str, Any] = {
        "max_shard_bytes": 80,
        "on_saved": lambda step, *facts: told.append(step),
        "on_failed": lambda step, message: told.append((step, message)),
    }
    writer = make_writer(engine, CheckpointStore(files), background=True, **settings)
    weights = {name: tensor.tolist() for name, tensor in engine.weights()}
    moments = {name: tensor.tolist() for name, tensor in engine.moments()}
    writer.save(state_at(2))
    train(engine, 1)
    writer.save(state_at(3, updates=3))
    writer.finish()
    errors = []
    # The shards of one rank, then of the other; last, rank 1 cannot even write that it has failed.
    for step, failing, fails in ((4, 0, ".safetensors"), (5, 1, ".safetensors"), (6, 1, "/"), (7, 1, "/")):
        files.fails = fails if rank == failing else None
        if step == 7:
            writer = make_writer(engine, CheckpointStore(files), background=False, **settings)
        try:
            writer.save(state_at(step, updates=3))
            writer.finish()
        except TrainingError as error:
            errors.append(str(error))
    return {"weights": weights, "moments": moments, "told": told, "errors": errors}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    where = tmp_path_factory.mktemp("shared")
    return where, run_ranks(save_sharded, 2, str(where))


def test_what_two_ranks_saved_loads_on_one(saved: tuple[Path, list[dict[str, Any]]]) -> None:
    from safetensors.torch import load_file

    where, (first, _) = saved
    checkpoint = CheckpointStore(where).open(2)
    shards = sorted(checkpoint.model_dir.glob("*.safetensors"))
    assert len(shards) > 1
    tensors = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == first["weights"]
    engine = trained(0)
    checkpoint.load_moments(engine)
    assert engine.updates == 2
    assert {name: tensor.tolist() for name, tensor in engine.moments()} == first["moments"]
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_rank_that_cannot_write_fails_the_save_on_both_and_leaves_nothing(
    saved: tuple[Path, list[dict[str, Any]]],
) -> None:
    where, (first, second) = saved
    assert first["errors"] == second["errors"]
    assert len(first["errors"]) == 4
    assert all("No space left on device" in error for error in first["errors"])
    assert first["told"][:2] == [2, 3]
    assert [step for step, _ in first["told"][2:]] == [4, 5, 6, 7]
    assert second["told"] == []
    # What rank 1 may have left in the last attempt is cleared away by the next save.
    assert sorted(path.name for path in where.glob("step-*")) == ["step-00000002", "step-00000003"]
