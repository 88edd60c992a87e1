"""Several runs of one config: their names, what one came to, how they spread. No Ray. Used by `seeds` and `sweep`.

A run lies beside the single one, as storage/NAME-seed-0 or storage/NAME-lr-1e-05-seed-0, so that all of them find the
prepared set under storage/prepared, and none is inside another; what they came to together is in a folder of its own,
storage/NAME-seeds or storage/NAME-sweep.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmray.config.train import EnsembleConfig, TrainConfig
from rmray.errors import BundleError, ConfigError, TrainingError
from rmray.models.bundle.manifest import MANIFEST_NAME, read_manifest
from rmray.training.export import BUNDLE_DIR
from rmray.training.run_dir import write_whole

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What a finished run came to. accuracy: held out, with its 95% interval over prompts. loss, ece: held out; None
    where they are not finite."""

    name: str
    run_dir: str
    seed: int
    lr: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    loss: float | None
    ece: float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Of at least one value. std: sample standard deviation (n - 1 below), 0 where there is one value alone."""

    mean: float
    std: float
    min: float
    max: float


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean, sample standard deviation, least and greatest; None where a value is missing or there is none."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0, min(known), max(known))


def vary(config: TrainConfig, suffix: str, *, seed: int | None = None, lr: float | None = None) -> TrainConfig:
    """The config of one of several runs, with its own name; it trains one model."""
    name = f"{config.run.name}-{suffix}"
    run = config.run.model_copy(update={"name": name, **({} if seed is None else {"seed": seed})})
    optim = config.optim if lr is None else config.optim.model_copy(update={"lr": lr})
    return config.model_copy(update={"run": run, "optim": optim, "ensemble": EnsembleConfig()})


def seeds_of(config: TrainConfig, num_seeds: int) -> range:
    """run.seed and the ones after it. Raises ConfigError where the last one is no seed any more."""
    seeds = range(config.run.seed, config.run.seed + num_seeds)
    if seeds[-1] > MAX_SEED:
        raise ConfigError(f"run.seed is {config.run.seed}: {num_seeds} seeds from there on would pass 2^63")
    return seeds


def check_single(config: TrainConfig) -> None:
    """Raise ConfigError where the config asks for an ensemble, by whoever trains one model."""
    if config.ensemble.members > 1:
        raise ConfigError(
            f"the config trains an ensemble of {config.ensemble.members}, and this is about single models",
            where="ensemble.members",
            next_step="add --ensemble.members 1; `rmray train` alone trains ensembles",
        )


def check_held_out(config: TrainConfig) -> None:
    """Raise ConfigError where nothing is held out: there would be nothing to compare the runs by."""
    if not config.data.eval and config.data.holdout is None:
        raise ConfigError(
            "the config holds nothing out, and runs are compared by their held-out accuracy",
            where="data",
            next_step="set data.holdout, to 0.1 for instance, or data.eval",
        )


def run_dir_of(config: TrainConfig) -> Path:
    return Path(config.run.storage) / config.run.name


def figures_of(config: TrainConfig, metrics: Mapping[str, Any]) -> RunFigures:
    """A run's figures from its metrics. Raises TrainingError where it has no held-out accuracy."""
    accuracy, low, high, loss, ece = (
        _finite(metrics.get(f"eval_{name}")) for name in ("accuracy", "accuracy_low", "accuracy_high", "loss", "ece")
    )
    if accuracy is None or low is None or high is None:
        raise TrainingError("the run has no held-out accuracy", where=str(run_dir_of(config)))
    run = config.run
    return RunFigures(run.name, str(run_dir_of(config)), run.seed, config.optim.lr, accuracy, low, high, loss, ece)


def finished_metrics(run_dir: Path) -> dict[str, Any] | None:
    """The metrics of a run that has ended, from its bundle; None where it has none yet, or one that is damaged: the
    run, resumed, makes it anew."""
    bundle = run_dir / BUNDLE_DIR
    if not (bundle / MANIFEST_NAME).exists():
        return None
    try:
        return dict(read_manifest(bundle).metrics)
    except BundleError:
        return None


def save_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write what several runs came to as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
