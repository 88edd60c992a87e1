"""A Ray door: a learning-rate sweep, one whole training run a trial, under Ray Tune. Called by `rmray sweep`.

plan trials -> prepare once -> look up what an earlier sweep has finished -> the rest through Tune -> table, sweep.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import ray

from rmray.config.train import TrainConfig
from rmray.connect import connected
from rmray.data.prepare import prepare_for
from rmray.models.files import check_base
from rmray.training.auto import check_capacity
from rmray.training.repeats import RunFigures, figures_of, save_report
from rmray.training.run_dir import identify
from rmray.training.storage import with_absolute_paths
from rmray.training.storage_check import check_seen_by_all
from rmray.training.sweep_plan import SweepReport, Trial, concurrent_trials, look_up, make_report, plan_trials
from rmray.training.trials import run_trials


def sweep_lr(config: TrainConfig, lrs: Sequence[float], *, num_seeds: int = 1, overwrite: bool = False) -> SweepReport:
    """Train a run for each learning rate and seed, storage/NAME-lr-1e-05-seed-0 and on, and write
    storage/NAME-sweep/sweep.json.

    The same call again goes on with what is unfinished or failed, and leaves what is finished; overwrite: starts all of
    them over. A trial that fails stops no other. Raises before any trial: ConfigError, DataError, ModelError,
    ClusterError, and RunError where a run's directory is in use by something else or by another config's run.
    """
    config = with_absolute_paths(config)
    trials = plan_trials(config, lrs, num_seeds)
    check_base(config.model.base, config.pooling)
    with connected():
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        check_capacity(config, resources)
        for warning in check_seen_by_all(Path(config.run.storage), nodes):
            _say(f"warning: {warning}")
        # once, before the trials: they find the set
        identity = identify(config, prepare_for(config).manifest)
        trials = [look_up(trial, identity, overwrite=overwrite) for trial in trials]
        at_once = concurrent_trials(config, resources)
        open_trials = [trial for trial in trials if trial.done is None]
        _say(
            f"sweep of {len(trials)} runs: {len(trials) - len(open_trials)} finished before, {len(open_trials)} to go, "
            f"at most {at_once} at a time -> {config.run.storage}"
        )
        directory = Path(config.run.storage) / f"{config.run.name}-sweep"
        results = _run(open_trials, directory, at_once=at_once, overwrite=overwrite) if open_trials else {}
    report = make_report(config, [(t.config, t.done or results[t.config.run.name]) for t in trials], lrs=lrs)
    save_report(Path(report.file), report.to_json())
    return report


def _run(trials: Sequence[Trial], directory: Path, *, at_once: int, overwrite: bool) -> dict[str, RunFigures | str]:
    """Each trial's figures, or what it ended with, by the name of its run."""
    results = run_trials(trials, directory, at_once=at_once, overwrite=overwrite)
    configs = {trial.config.run.name: trial.config for trial in trials}
    return {name: told if isinstance(told, str) else figures_of(configs[name], told) for name, told in results.items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
