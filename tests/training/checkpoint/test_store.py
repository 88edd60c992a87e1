"""Checkpoints on a disk: whole or absent, damage found and named, the newest sound one used, the best one kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rmray.errors import BundleError, ConfigError, RunError
from rmray.training.checkpoint import CheckpointStore
from rmray.training.checkpoint.files import Files
from tests.training.checkpoint.helpers import contents, flip_byte, make_writer, save, state_at, trained


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    engine = trained()
    state = state_at(5, accuracy=0.75, memory={"health": {"losses": [1.5, 2]}}, finished=True)
    writer = make_writer(engine, tmp_path)
    writer.save(state)
    writer.finish()
    found = CheckpointStore(tmp_path).newest()
    assert found is not None
    assert found.state == state
    assert found.step == 5
    assert found.where == f"{tmp_path}/step-00000005"
    assert names(tmp_path) == ["step-00000005"]
    assert names(tmp_path / "step-00000005") == [
        "COMPLETE",
        "manifest.json",
        "model",
        "optimizer-00001-of-00001.safetensors",
        "state.json",
    ]
    weights = load_file(found.model_dir / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in engine.weights())
    fresh = trained(0)
    found.load_moments(fresh)
    assert fresh.updates == 2
    want = dict(engine.moments())
    assert all(torch.equal(tensor, want[name]) for name, tensor in fresh.moments())


def test_a_directory_may_be_given_as_a_url_and_need_not_exist(tmp_path: Path) -> None:
    store = CheckpointStore(f"file://{tmp_path}/a/b")
    assert store.newest() is None
    assert store.best() is None
    assert list(store.list()) == []
    save(trained(), store, 1)
    assert (tmp_path / "a/b/step-00000001/COMPLETE").exists()
    assert CheckpointStore(tmp_path / "a/b").open(1).step == 1


def test_shards_of_a_large_model_are_indexed_as_hugging_face_does(tmp_path: Path) -> None:
    engine = trained()
    save(engine, tmp_path, 1, max_shard_bytes=80)
    model = tmp_path / "step-00000001" / "model"
    index = json.loads((model / "model.safetensors.index.json").read_text())
    weights = dict(engine.weights())
    assert set(index["weight_map"]) == set(weights)
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in weights.values())
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(model / file)[name], weights[name])
    assert len(set(index["weight_map"].values())) > 1
    fresh = trained(0)
    CheckpointStore(tmp_path).open(1).load_moments(fresh)
    assert {n: t.tolist() for n, t in fresh.moments()} == {n: t.tolist() for n, t in engine.moments()}


def test_a_checkpoint_before_any_update_has_no_moments(tmp_path: Path) -> None:
    save(trained(0), tmp_path, 1)
    CheckpointStore(tmp_path).open(1).load_moments(trained(0))
    assert not list((tmp_path / "step-00000001").glob("optimizer-*"))


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    writer = make_writer(trained(), tmp_path, keep=2)
    for step, accuracy in ((9, 0.6), (10, 0.8), (20, None), (100, 0.7), (110, 0.8)):
        writer.save(state_at(step, accuracy=accuracy))
    writer.finish()
    assert names(tmp_path) == ["step-00000010", "step-00000100", "step-00000110"]
    store = CheckpointStore(tmp_path)
    assert list(store.list()) == [110, 100, 10]
    best = store.best()
    assert best is not None
    assert best.step == 10


def test_a_damaged_best_is_named_and_the_next_best_is_taken(tmp_path: Path) -> None:
    writer = make_writer(trained(), tmp_path)
    for step, accuracy in ((1, 0.6), (2, 0.8), (3, 0.7)):
        writer.save(state_at(step, accuracy=accuracy))
    writer.finish()
    flip_byte(tmp_path / "step-00000002" / "model" / "model.safetensors")
    warnings: list[str] = []
    best = CheckpointStore(tmp_path).best(warn=warnings.append)
    assert best is not None
    assert best.step == 3
    assert "model/model.safetensors" in warnings[0]


def test_a_better_one_of_a_future_that_was_given_up_is_not_the_best(tmp_path: Path) -> None:
    writer = make_writer(trained(), tmp_path)
    for step, accuracy in ((1, 0.8), (2, 0.6), (3, 0.9)):
        writer.save(state_at(step, accuracy=accuracy))
    writer = make_writer(trained(), tmp_path, keep=1)
    writer.save(state_at(2, accuracy=0.6))
    writer.finish()
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_the_best_does_not_stay_where_only_the_newest_are_wanted(tmp_path: Path) -> None:
    writer = make_writer(trained(), tmp_path, keep=1, keep_best=False)
    for step, accuracy in ((1, 0.9), (2, 0.6)):
        writer.save(state_at(step, accuracy=accuracy))
    writer.finish()
    assert names(tmp_path) == ["step-00000002"]


def marker_of_another(checkpoint: Path) -> None:
    (checkpoint / "COMPLETE").write_bytes((checkpoint.parent / "step-00000001" / "COMPLETE").read_bytes())


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "flipped byte": ("model/model.safetensors", flip_byte),
    "cut short": ("optimizer-00001-of-00001.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-5])),
    "missing shard": ("optimizer-00001-of-00001.safetensors", lambda p: p.unlink()),
    "missing config": ("model/config.json", lambda p: p.unlink()),
    "missing manifest": ("manifest.json", lambda p: p.unlink()),
    "broken manifest": ("manifest.json", lambda p: p.write_text("{")),
    "missing marker": ("COMPLETE", lambda p: p.unlink()),
    "marker of another": ("COMPLETE", lambda p: marker_of_another(p.parent)),
    "marker of bytes": ("COMPLETE", lambda p: p.write_bytes(b"\xff\xfe")),
    "missing state": ("state.json", lambda p: p.unlink()),
    "other state": ("state.json", lambda p: p.write_text('{"step": 3}')),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    writer = make_writer(trained(), tmp_path)
    for step in (1, 2):
        writer.save(state_at(step))
    writer.finish()
    name, spoil = DAMAGES[damage]
    spoil(tmp_path / "step-00000002" / name)
    store, warnings = CheckpointStore(tmp_path), list[str]()
    found = store.newest(warn=warnings.append)
    assert found is not None
    assert found.step == 1
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]
    assert name in warnings[0]
    with pytest.raises(BundleError, match="damaged") as raised:
        store.open(2)
    assert name in str(raised.value)


def test_json_that_is_hashed_but_no_state_is_named(tmp_path: Path) -> None:
    """Of a program that writes something else: the hashes fit, the contents do not."""
    from rmray.training.checkpoint.layout import Facts, manifest_text, sha256_of

    folder = tmp_path / "step-00000003"
    folder.mkdir()
    for text, complaint in (('{"step": 3}', "missing"), ("{", "state.json: JSONDecodeError")):
        (folder / "state.json").write_text(text)
        manifest = manifest_text({"state.json": Facts(len(text), sha256_of(text))})
        (folder / "manifest.json").write_text(manifest)
        (folder / "COMPLETE").write_text(sha256_of(manifest))
        with pytest.raises(BundleError, match=complaint):
            CheckpointStore(tmp_path).open(3)


def test_without_verifying_the_shards_are_not_read(tmp_path: Path) -> None:
    save(trained(), tmp_path, 1)
    flip_byte(tmp_path / "step-00000001" / "model" / "model.safetensors")
    store = CheckpointStore(tmp_path)
    assert store.open(1, verify=False).step == 1
    newest = store.newest(verify=False)
    assert newest is not None
    state = tmp_path / "step-00000001" / "state.json"
    state.write_text(state.read_text().replace('"seed": 7', '"seed": 8'))
    with pytest.raises(BundleError, match=r"state\.json does not match"):
        store.open(1, verify=False)


def test_what_is_saved_after_a_damaged_checkpoint_stays_and_the_damaged_one_goes(tmp_path: Path) -> None:
    engine = trained()
    save(engine, tmp_path, 1)
    save(engine, tmp_path, 3)
    flip_byte(tmp_path / "step-00000003" / "state.json")
    save(engine, tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-00000002"]


def test_a_damaged_checkpoint_is_replaced_by_a_new_one_of_its_step(tmp_path: Path) -> None:
    engine = trained()
    save(engine, tmp_path, 1)
    sound = contents(tmp_path)
    flip_byte(tmp_path / "step-00000001" / "model" / "model.safetensors")
    save(engine, tmp_path, 1)
    assert contents(tmp_path) == sound


def test_what_broke_off_is_not_seen_and_cleared_away_but_not_what_is_of_others(tmp_path: Path) -> None:
    (tmp_path / ".step-00000002.dead" / "files" / "model").mkdir(parents=True)
    for name in ("step-00000001/model/model.safetensors", "step-00000009/theirs.bin", "notes/step.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    store = CheckpointStore(tmp_path)
    assert store.newest() is None
    save(trained(), store, 2)
    assert names(tmp_path) == ["notes", "step-00000002", "step-00000009"]


def test_a_half_deleted_checkpoint_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(trained(), tmp_path, 1)
    store = CheckpointStore(tmp_path)

    def killed(self: Files, name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Files, "delete_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        store.delete(1)
    assert list(store.list()) == []
    assert (tmp_path / "step-00000001" / "model" / "model.safetensors").exists()


def test_moments_of_another_model_are_refused(tmp_path: Path) -> None:
    save(trained(), tmp_path, 1)
    other = trained(0)
    other.backbone.model.add_module("extra", torch.nn.Linear(2, 2))
    with pytest.raises(BundleError, match="does not hold this model's"):
        CheckpointStore(tmp_path).open(1).load_moments(other)


@pytest.mark.parametrize("url", ["nothing://bucket/x", "s3://user:secret@bucket/x?nonsense=1"])
def test_a_url_that_cannot_be_read_is_one_clear_error_without_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint|URL") as raised:
        CheckpointStore(url)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_place_that_cannot_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "new").check_writable()
    assert names(tmp_path / "new") == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        CheckpointStore(tmp_path / "file").check_writable()
