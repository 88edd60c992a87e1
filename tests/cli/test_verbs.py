"""Verbs that do more than pass options on."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from rmray.cli import main
from rmray.config.load import save_config
from rmray.training import sweep
from rmray.training.sweep_plan import make_report, plan_trials
from tests.training.finished import FakeTrain, make_config


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    save_config(make_config(tmp_path / "runs"), path)
    return str(path)


def test_train_over_seeds(
    config_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = FakeTrain({"tiny-seed-4": 0.7, "tiny-seed-5": 0.8})
    monkeypatch.setattr("rmray.training.trainer.train", train)
    monkeypatch.setattr("rmray.training.seeds.connected", contextlib.nullcontext)
    words = ["train", config_file, "--seeds", "2", "--run.seed", "4", "--json"]
    assert main(words) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    assert any("mean" in line and "0.7500" in line for line in shown)
    result = json.loads(last)
    assert result["spreads"]["accuracy"]["mean"] == pytest.approx(0.75)
    assert Path(result["file"]).exists()
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert train.trained == ["tiny-seed-4", "tiny-seed-5"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--seeds", "1"], "1 seed has no spread"),
        (["train", "--seeds", "2", "--data.holdout", "null"], "holds nothing out"),
        (["sweep", "--lrs", "1e-5"], "one learning rate is no sweep"),
        (["sweep", "--lrs", "1e-5,1e-4", "--data.holdout", "null"], "holds nothing out"),
        (["sweep", "--lrs", "1e-5,1e-4", "--run.storage", "s3://bucket/runs"], "checkpoint.storage takes URLs"),
    ],
)
def test_what_cannot_be_repeated(
    config_file: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    verb, *options = words
    assert main([verb, config_file, *options]) == 2
    assert message in capsys.readouterr().err


def test_sweep(config_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failed(config, lrs, *, num_seeds, overwrite):
        trials = plan_trials(config, lrs, num_seeds)
        return make_report(config, [(trial.config, "broke off") for trial in trials], lrs=lrs)

    monkeypatch.setattr(sweep, "sweep_lr", failed)
    assert main(["sweep", config_file, "--lrs", "1e-4,1e-5", "--seeds", "2", "--optim.epochs", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [rate["lr"] for rate in result["rates"]] == [1e-5, 1e-4]
    assert result["rates"][0]["failures"] == ["broke off"] * 2
