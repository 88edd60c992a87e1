"""A Ray door: whole training runs as trials of Ray Tune, as many at a time as fit. Called by `sweep` and `ensemble`."""

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

from rmray.errors import RmrayError
from rmray.training.repeats import run_dir_of
from rmray.training.sweep_plan import Trial

TUNE_DIR = "tune"
# What a trial's actor holds while its run has the CPUs and GPUs: a run may need every last one of them, and Tune wants
# something. One byte of memory.
TRIAL_RESOURCES = {"memory": 1.0}
TUNE_SETTINGS = {"RAY_AIR_NEW_OUTPUT": "0"}  # the runs tell of themselves: no tables of Tune's beside them


def run_trials(
    trials: Sequence[Trial], directory: Path, *, at_once: int, overwrite: bool
) -> dict[str, Mapping[str, Any] | str]:
    """Each run's metrics, or what it ended with, by the run's name. directory: for what Tune keeps of them."""
    by_name = {trial.config.run.name: trial for trial in trials}
    shutil.rmtree(directory / TUNE_DIR, ignore_errors=True)  # what is finished, the runs themselves tell
    tuner = tune.Tuner(
        tune.with_resources(partial(_trial, trials=by_name, overwrite=overwrite), TRIAL_RESOURCES),
        param_space={"run": tune.grid_search(list(by_name))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
        run_config=tune.RunConfig(name=TUNE_DIR, storage_path=str(directory), verbose=0),
    )
    results: dict[str, Mapping[str, Any] | str] = dict.fromkeys(by_name, "its process died")
    with _environment(TUNE_SETTINGS):
        grid = tuner.fit()
    for result in (grid[place] for place in range(len(grid))):
        name = (result.config or {})["run"]
        told = result.metrics or {}
        if told.get("failure") or result.error:
            results[name] = told.get("failure") or str(result.error).strip().splitlines()[-1]
        elif "metrics" in told:
            results[name] = told["metrics"]
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
