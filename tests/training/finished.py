"""Runs that never trained: a directory as `train` leaves it, with a bundle's record and no model. For seeds, sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmray.config.train import TrainConfig
from rmray.errors import TrainingError
from rmray.models.bundle.manifest import MANIFEST_NAME, BundleManifest, write_manifest
from rmray.models.reward import Reference, Unfinished
from rmray.training.repeats import finished_metrics, run_dir_of
from rmray.training.run_dir import check_free, check_same, fixed_settings, open_run
from rmray.training.trainer import TrainOutcome


def make_config(storage: Path, **sections: dict[str, Any]) -> TrainConfig:
    """Ten percent held out of a file that does not exist."""
    data = {"train": ["pairs.jsonl"], "holdout": 0.1} | sections.pop("data", {})
    run = {"name": "tiny", "storage": str(storage)} | sections.pop("run", {})
    return TrainConfig.model_validate({"run": run, "data": data, "model": {"base": "org/base"}, **sections})


def make_metrics(accuracy: float, *, half: float = 0.05, loss: float = 0.6, ece: float = 0.02) -> dict[str, float]:
    return {
        "eval_accuracy": accuracy,
        "eval_accuracy_low": accuracy - half,
        "eval_accuracy_high": accuracy + half,
        "eval_loss": loss,
        "eval_ece": ece,
    }


def identity_of(config: TrainConfig) -> dict[str, Any]:
    """As `identify` gives it for one prepared set and base."""
    return {
        "settings": fixed_settings(config),
        "data": {"prepared_set": "0123"},
        "model": {"base": "org/base", "hash": "4567"},
        "versions": {},
    }


def finish(config: TrainConfig, metrics: Mapping[str, float]) -> None:
    """The run's record, and its bundle's."""
    begin(config)
    bundle = run_dir_of(config) / "bundle"
    bundle.mkdir()
    manifest = BundleManifest(
        name=config.run.name,
        kind="scalar",
        objective="bradley_terry",
        pooling="last",
        loads_with="rmray",
        head="score.weight",
        head_trained=True,
        dtype="float32",
        render_rules={},
        tokenizer_hash="",
        pad={},
        unfinished=Unfinished(),
        reference=Reference("", "", 0.0, 1.0, (0.0,) * 101, 1),
        base_model="base",
        data_hashes={},
        metrics=dict(metrics),
        license=None,
        files={},
        model_version="",
    )
    write_manifest(bundle, manifest)
    assert (bundle / MANIFEST_NAME).exists()


def begin(config: TrainConfig) -> None:
    """The run's record alone, as a killed driver leaves it."""
    open_run(run_dir_of(config), config, identity_of(config), overwrite=False)


@dataclass
class FakeTrain:
    """Stands for `trainer.train`: accuracies by run name; those without one break off. trained: names in order."""

    accuracies: dict[str, float]
    trained: list[str] = field(default_factory=list)

    def __call__(self, config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> TrainOutcome:
        run_dir = run_dir_of(config)
        check_free(run_dir, resume=resume, overwrite=overwrite)
        if resume:
            check_same(run_dir, identity_of(config))
        metrics = finished_metrics(run_dir)
        if metrics is None or overwrite:
            open_run(run_dir, config, identity_of(config), overwrite=overwrite)
            self.trained.append(config.run.name)
            if config.run.name not in self.accuracies:
                raise TrainingError("training broke off", where=str(run_dir))
            metrics = make_metrics(self.accuracies[config.run.name])
            finish(config, metrics)
        return TrainOutcome(run_dir, run_dir / "bundle", metrics)
