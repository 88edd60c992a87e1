"""When a run directory may be used, and what keeps a run from being resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmray.config.train import TrainConfig
from rmray.errors import RunError
from rmray.training.run_dir import check_free, check_same, differences, identify, model_hash, open_run
from tests.data.prepared_sets import random_rows, write_prepared


def config(**sections: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate({"data": {"train": ["a"]}, "model": {"base": "org/base"}, **sections})


def identity(tmp_path: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    return identify(config(**sections), write_prepared(tmp_path / "set", random_rows(4)))


def test_an_absent_or_empty_directory_is_free(tmp_path: Path) -> None:
    check_free(tmp_path / "none", resume=False, overwrite=False)
    check_free(tmp_path, resume=True, overwrite=False)


def test_a_run_in_the_way_asks(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(RunError, match="in use") as caught:
        check_free(tmp_path, resume=False, overwrite=False)
    assert "--resume" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    check_free(tmp_path, resume=True, overwrite=False)
    check_free(tmp_path, resume=False, overwrite=True)
    with pytest.raises(RunError, match="exclude each other"):
        check_free(tmp_path, resume=True, overwrite=True)


@pytest.mark.parametrize("flags", [{"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}])
def test_what_is_no_run_is_never_touched(tmp_path: Path, flags: dict[str, bool]) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="something else"):
        check_free(tmp_path, **flags)


def test_overwriting_empties_the_directory_and_opening_writes_what_the_run_is(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    open_run(run_dir, config(), identity(tmp_path), overwrite=False)
    (run_dir / "metrics.jsonl").write_text("old")
    check_same(run_dir, identity(tmp_path))
    open_run(run_dir, config(), identity(tmp_path), overwrite=True)
    assert sorted(p.name for p in run_dir.iterdir()) == ["config.yaml", "identity.json"]


def test_overwriting_follows_a_link_to_another_disk(tmp_path: Path) -> None:
    disk, run_dir = tmp_path / "disk", tmp_path / "run"
    (disk / "checkpoints" / "step-00000009").mkdir(parents=True)
    run_dir.symlink_to(disk)
    open_run(run_dir, config(), identity(tmp_path), overwrite=True)
    assert run_dir.is_symlink()
    assert sorted(p.name for p in disk.iterdir()) == ["config.yaml", "identity.json"]


def test_what_cannot_be_emptied_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy")

    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr("shutil.rmtree", busy)
    with pytest.raises(RunError, match="cannot be emptied"):
        open_run(tmp_path, config(), identity(tmp_path / "other"), overwrite=True)


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"run": {"seed": 3}}, "run.seed: 0 -> 3"),
        ({"optim": {"lr": 2e-5}}, "optim.lr: 1e-05 -> 2e-05"),
        ({"optim": {"epochs": 2}}, "optim.epochs: 1 -> 2"),
        ({"objective": {"margin": 0.5}}, "objective.margin: none -> 0.5"),
        ({"model": {"base": "org/base", "pooling": "mean"}}, "model.pooling: last -> mean"),
    ],
)
def test_a_changed_run_is_refused_with_the_difference(tmp_path: Path, changed: dict[str, Any], shown: str) -> None:
    open_run(tmp_path / "run", config(), identity(tmp_path), overwrite=False)
    with pytest.raises(RunError, match="not the same") as caught:
        check_same(tmp_path / "run", identity(tmp_path, **changed))
    assert shown in str(caught.value)


def test_workers_and_intervals_may_change(tmp_path: Path) -> None:
    changed = {"workers": {"num": 1}, "checkpoint": {"every_steps": 7}, "evaluate": {"every_steps": 9}}
    assert differences(identity(tmp_path), identity(tmp_path, **changed)) == []


def test_changed_data_and_base_are_found_by_content(tmp_path: Path) -> None:
    old, new = identity(tmp_path), identity(tmp_path)
    new["data"] = {"prepared_set": "other", "files": {"b": "1234"}}
    new["model"] = {"base": "org/base", "hash": "5678"}
    found = differences(old, new)
    assert "data: b: absent -> 1234" in found
    assert any(line.startswith("model.base: org/base") for line in found)


def test_a_base_is_known_by_its_weights_and_not_by_where_it_lies(tmp_path: Path, tiny_base: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"1")
    assert model_hash(str(tmp_path / "a")) == model_hash(str(tmp_path / "b"))
    (tmp_path / "b" / "model.safetensors").write_bytes(b"2")
    assert model_hash(str(tmp_path / "a")) != model_hash(str(tmp_path / "b"))
