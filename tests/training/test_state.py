"""Checkpoints on their own: whole or absent, damage found and named, the newest sound one used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rmray.errors import BundleError
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.state import (
    TrainingState,
    checkpoint_name,
    load_moments,
    newest_checkpoint,
    open_checkpoint,
    plan_shards,
    save_checkpoint,
)
from tests.training.toys import ToyBackbone, toy_step


def trained(updates: int = 2) -> TorchEngine:
    engine = TorchEngine(lambda gather: ToyBackbone(), EngineSettings())
    for step in range(updates):
        scores = engine.forward(toy_step(step, 1)[0])
        engine.backward(torch.nn.functional.softplus(scores[1] - scores[0]), last=True)
        engine.step(0.1)
    return engine


def save(engine: TorchEngine, directory: Path, step: int, *, keep: int = 3, max_shard_bytes: int = 2**30) -> Path:
    return save_checkpoint(
        engine,
        directory,
        TrainingState(step, engine.updates, 0, {"seed": 7}),
        save_model_extras=lambda model_dir: (model_dir / "config.json").write_text("{}"),
        keep=keep,
        max_shard_bytes=max_shard_bytes,
    )  # type: ignore[return-value]


def test_shards_are_bounded_and_keep_the_order() -> None:
    sizes = {"a": 4, "b": 4, "c": 9, "d": 1, "e": 4, "f": 4}
    assert plan_shards(sizes, 8) == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    assert plan_shards(sizes, 100) == [list(sizes)]
    assert plan_shards({}, 8) == []


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    engine = trained()
    directory = save(engine, tmp_path, 5)
    assert directory.name == checkpoint_name(5) == "step-00000005"
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.state == TrainingState(5, 2, 0, {"seed": 7})
    weights = load_file(found.model_dir / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in engine.weights())
    fresh = trained(0)
    load_moments(fresh, found)
    assert fresh.updates == 2
    want = dict(engine.moments())
    assert all(torch.equal(tensor, want[name]) for name, tensor in fresh.moments())
    assert not list(tmp_path.glob(".*"))


def test_shards_of_a_large_model_are_indexed_as_hugging_face_does(tmp_path: Path) -> None:
    engine = trained()
    directory = save(engine, tmp_path, 1, max_shard_bytes=80)
    index = json.loads((directory / "model" / "model.safetensors.index.json").read_text())
    weights = dict(engine.weights())
    assert set(index["weight_map"]) == set(weights)
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in weights.values())
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(directory / "model" / file)[name], weights[name])
    assert len(set(index["weight_map"].values())) > 1
    found = newest_checkpoint(tmp_path)
    assert found is not None
    fresh = trained(0)
    load_moments(fresh, found)
    assert {n: t.tolist() for n, t in fresh.moments()} == {n: t.tolist() for n, t in engine.moments()}


def test_a_checkpoint_before_any_update_has_no_moments(tmp_path: Path) -> None:
    save(trained(0), tmp_path, 1)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    load_moments(trained(0), found)
    assert not list(found.directory.glob("optimizer-*"))


def test_the_newest_stay(tmp_path: Path) -> None:
    engine = trained()
    for step in (9, 10, 100):
        save(engine, tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "flipped byte": ("model/model.safetensors", flip_byte),
    "cut short": ("optimizer-00001-of-00001.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-5])),
    "missing shard": ("optimizer-00001-of-00001.safetensors", lambda p: p.unlink()),
    "missing config": ("model/config.json", lambda p: p.unlink()),
    "missing manifest": ("manifest.json", lambda p: p.unlink()),
    "broken manifest": ("manifest.json", lambda p: p.write_text("{")),
    "other state": ("state.json", lambda p: p.write_text('{"step": 3}')),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    engine = trained()
    save(engine, tmp_path, 1)
    newest = save(engine, tmp_path, 2)
    name, spoil = DAMAGES[damage]
    spoil(newest / name)
    warnings: list[str] = []
    found = newest_checkpoint(tmp_path, warn=warnings.append)
    assert found is not None
    assert found.state.step == 1
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]
    assert Path(name).name in warnings[0]
    with pytest.raises(BundleError, match="damaged"):
        open_checkpoint(newest)


def test_what_is_saved_after_a_damaged_checkpoint_stays_and_the_damaged_one_goes(tmp_path: Path) -> None:
    engine = trained()
    save(engine, tmp_path, 1)
    flip_byte(save(engine, tmp_path, 3) / "state.json")
    save(engine, tmp_path, 2, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_a_save_that_broke_off_is_not_seen_and_does_not_disturb_the_next(tmp_path: Path) -> None:
    (tmp_path / ".step-00000002.unfinished" / "model").mkdir(parents=True)
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "nowhere") is None
    save(trained(), tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_storage_that_fails_is_an_error_and_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    engine = trained()
    save(engine, tmp_path, 1)

    def full(model_dir: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(engine, tmp_path, TrainingState(2, 2, 0, {}), save_model_extras=full, keep=1)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.state.step == 1


def test_moments_of_another_model_are_refused(tmp_path: Path) -> None:
    engine = trained()
    directory = save(engine, tmp_path, 1)
    other = trained(0)
    other.backbone.model.add_module("extra", torch.nn.Linear(2, 2))
    with pytest.raises(BundleError, match="does not hold this model's"):
        load_moments(other, open_checkpoint(directory))
