"""A Ray door: a learning-rate sweep, one whole training run a trial, under Ray Tune. Called by `rmray sweep`.

plan trials -> prepare once -> look up what an earlier sweep has finished -> the rest through Tune -> table, sweep.json
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from rmray.config.train import TrainConfig
from rmray.connect import connected
from rmray.data.prepare import prepare_for
from rmray.errors import RmrayError
from rmray.models.files import check_base
from rmray.training.auto import check_capacity
from rmray.training.repeats import RunFigures, figures_of, run_dir_of, save_report
from rmray.training.run_dir import identify
from rmray.training.storage import with_absolute_paths
from rmray.training.storage_check import check_seen_by_all
from rmray.training.sweep_plan import SweepReport, Trial, concurrent_trials, look_up, make_report, plan_trials

TUNE_DIR = "tune"
# What a trial's actor holds while its run has the CPUs and GPUs: a run may need every last one of them, and Tune wants
# something. One byte of memory.
TRIAL_RESOURCES = {"memory": 1.0}
TUNE_SETTINGS = {"RAY_AIR_NEW_OUTPUT": "0"}  # the runs tell of themselves: no tables of Tune's beside them


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
    by_name = {trial.config.run.name: trial for trial in trials}
    shutil.rmtree(directory / TUNE_DIR, ignore_errors=True)  # what is finished, the runs themselves tell
    tuner = tune.Tuner(
        tune.with_resources(partial(_trial, trials=by_name, overwrite=overwrite), TRIAL_RESOURCES),
        param_space={"run": tune.grid_search(list(by_name))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
        run_config=tune.RunConfig(name=TUNE_DIR, storage_path=str(directory), verbose=0),
    )
    results: dict[str, RunFigures | str] = dict.fromkeys(by_name, "its process died")
    with _environment(TUNE_SETTINGS):
        grid = tuner.fit()
    for result in (grid[place] for place in range(len(grid))):
        name = (result.config or {})["run"]
        told = result.metrics or {}
        if told.get("failure") or result.error:
            results[name] = told.get("failure") or str(result.error).strip().splitlines()[-1]
        elif "metrics" in told:
            results[name] = figures_of(by_name[name].config, told["metrics"])
    return results


def _trial(setting: Mapping[str, Any], *, trials: Mapping[str, Trial], overwrite: bool) -> None:
    """Tune's function: train one run, in a task of its own.

    The task leaves the trial's placement group, into whose one byte everything a run starts would have to fit, and runs
    in a main thread, as a driver does.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_train)
    trial = trials[setting["run"]]
    tune.report(ray.get(task.options(scheduling_strategy="DEFAULT").remote(trial, overwrite)))


def _train(trial: Trial, overwrite: bool) -> dict[str, Any]:
    from rmray.training.trainer import train

    _say(f"trial {trial.config.run.name}: {run_dir_of(trial.config)}")
    try:
        return {"metrics": train(trial.config, resume=trial.resume, overwrite=overwrite).metrics}
    except RmrayError as error:
        return {"failure": str(error)}


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
