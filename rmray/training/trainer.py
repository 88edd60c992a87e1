"""The Ray door of training: prepare, put the loop on Ray Train's workers, export the bundle. Called by `rmray train`.

check the run directory -> join Ray -> prepare -> look at machine and model -> check what is resumed
-> TorchTrainer(run_worker) with planned steps -> newest checkpoint -> bundle
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

from rmray.config.train import TrainConfig
from rmray.connect import connected
from rmray.data.chunks import StepSource, count_steps
from rmray.data.prepare import PreparedSet, format_ledger, prepare_for
from rmray.data.shares import StepShare
from rmray.data.stream import SHARD_NAME, TrainingDataConfig, iter_steps
from rmray.errors import RmrayError, TrainingError
from rmray.models.bundle.manifest import MANIFEST_NAME
from rmray.models.files import check_base
from rmray.training import run_dir as runs
from rmray.training.auto import Choices, Machine, ModelShape, check_capacity, choose
from rmray.training.engine import Ranks
from rmray.training.export import BUNDLE_DIR, export_run
from rmray.training.faults import forget_fault, raise_fault, what_failed, write_fault
from rmray.training.metrics_log import METRICS_FILE, final_figures
from rmray.training.progress import follow, make_display
from rmray.training.state import Checkpoint, newest_checkpoint
from rmray.training.worker import CHECKPOINTS_DIR, WorkerJob, run_worker

RAY_DIR = "ray"
WORKER_START_TIMEOUT_S = 300  # Ray Train gives up after 60: too few where many workers import torch at once


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """A finished run. metrics: its number of steps, the last step's figures and the last held-out ones."""

    run_dir: Path
    bundle_dir: Path
    metrics: dict[str, Any]


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> TrainOutcome:
    """Run a training config to its bundle on the Ray that is initialised, or named by RAY_ADDRESS, or a local one.

    resume: go on from the newest sound checkpoint of the run directory (from the start where there is none). overwrite:
    delete the run directory first. Raises RunError (directory in use; a resume that does not fit), ClusterError (more
    than the cluster has), ModelError, DataError, ConfigError, TrainingError.
    """
    config = _with_absolute_paths(config)
    run_dir = Path(config.run.storage) / config.run.name
    runs.check_free(run_dir, resume=resume, overwrite=overwrite)
    check_base(config.model.base)
    with connected():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        workers_per_node = check_capacity(config, nodes)
        look = _look_from_a_worker(config, workers_per_node)
        prepared = prepare_for(config)
        _say(format_ledger(prepared.manifest))
        choices = choose(config, *_get(look))
        identity = runs.identify(config, prepared.manifest)
        if resume:
            runs.check_same(run_dir, identity)
        runs.open_run(run_dir, config, identity, overwrite=overwrite)
        job = _make_job(run_dir, config, choices, prepared, identity)
        _say(_describe(job))
        checkpoint = newest_checkpoint(run_dir / CHECKPOINTS_DIR, warn=_say)
        trained = checkpoint is None or checkpoint.state.step < job.num_steps
        if trained:
            _fit(job)
            checkpoint = newest_checkpoint(run_dir / CHECKPOINTS_DIR, warn=_say)
        if checkpoint is None:
            raise TrainingError("the run ended without a checkpoint", where=str(run_dir))
        metrics = {"steps": job.num_steps, **final_figures(run_dir / METRICS_FILE)}
        if trained or not (run_dir / BUNDLE_DIR / MANIFEST_NAME).exists():
            _export(job, checkpoint, metrics)
    return TrainOutcome(run_dir, run_dir / BUNDLE_DIR, metrics)


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Workers run in another folder: what is a path here becomes an absolute one."""

    def absolute(name: str) -> str:
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else name

    files = {split: [absolute(source) for source in getattr(config.data, split)] for split in ("train", "eval")}
    storage = str(Path(config.run.storage).expanduser().resolve())
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"storage": storage}),
            "data": config.data.model_copy(update=files),
            "model": config.model.model_copy(update={"base": absolute(config.model.base)}),
        }
    )


def _look_from_a_worker(config: TrainConfig, workers_per_node: int) -> Any:
    """Start a task that looks at model and machine with a worker's resources, while data is prepared."""
    workers = config.workers
    look = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=0)(_look)
    return look.remote(config.model.base, bool(workers.gpus), workers_per_node)


def _look(base: str, gpu: bool, workers_here: int) -> tuple[ModelShape, Machine]:
    from rmray.training.machine import inspect_machine, inspect_model

    return inspect_model(base), inspect_machine(gpu=gpu, workers_here=workers_here)


def _get(reference: Any) -> Any:
    """The value of a task; a fault of ours is raised as it was, without the task's traceback around it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RmrayError):
            raise error.cause from None
        raise


def _make_job(
    run_dir: Path, config: TrainConfig, choices: Choices, prepared: PreparedSet, identity: dict[str, Any]
) -> WorkerJob:
    source = StepSource(
        prepared_dir=str(prepared.directory),
        seed=config.run.seed,
        global_batch_size=config.optim.global_batch_size,
        max_micro_batch_tokens=choices.max_micro_batch_tokens,
        epochs=config.optim.epochs,
        max_steps=config.optim.max_steps,
    )
    return WorkerJob(
        run_dir=str(run_dir),
        config=config,
        choices=choices,
        source=source,
        num_steps=count_steps(source).num_steps,
        pad_id=int(prepared.manifest.render_rules["pad_id"]),
        identity=identity,
    )


def _describe(job: WorkerJob) -> str:
    choices, workers = job.choices, job.config.workers
    dtype = "bfloat16" if choices.bfloat16 else "float32"
    return (
        f"training {job.num_steps} steps on {workers.num} worker(s) ({choices.device}), ZeRO stage "
        f"{choices.zero_stage}, {dtype}, at most {choices.max_micro_batch_tokens} tokens a forward"
        + (", gradient checkpointing" if choices.gradient_checkpointing else "")
        + f" -> {job.run_dir}"
    )


def _fit(job: WorkerJob) -> None:
    """Run the workers, showing their progress, until the last step is saved."""
    config, run_dir = job.config, Path(job.run_dir)
    shutil.rmtree(run_dir / RAY_DIR, ignore_errors=True)
    forget_fault(run_dir)
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if job.choices.device == "cuda" else "gloo", timeout_s=int(config.workers.timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=config.workers.num,
            use_gpu=bool(config.workers.gpus),
            resources_per_worker={"CPU": config.workers.cpus, **({"GPU": 1} if config.workers.gpus else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=RAY_DIR,
            storage_path=str(run_dir),
            failure_config=FailureConfig(max_failures=config.workers.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        datasets={**TrainingDataConfig.datasets()},
        dataset_config=TrainingDataConfig(job.source, start_step=_StartStep(str(run_dir / CHECKPOINTS_DIR))),
    )
    try:
        with _controller_environment(), follow(run_dir / METRICS_FILE, make_display(job.num_steps)):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise what_failed(run_dir, getattr(error, "worker_failures", {}), str(error)) from error


@contextlib.contextmanager
def _controller_environment() -> Iterator[None]:
    """What the actors of Ray Train need to know: which of several Rays on a machine is ours, and to be quiet.

    Ray Train hands on a fixed list of variables, so ours are added to it.
    """
    variables = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_DATA_LOG_LEVEL": "ERROR",
        "RAY_LOGGER_LEVEL": "error",  # without a dashboard one of them complains every second
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(WORKER_START_TIMEOUT_S),
    }
    saved = {name: os.environ.get(name) for name in variables}
    listed = ENV_VARS_TO_PROPAGATE & variables.keys()
    os.environ.update(variables)
    ENV_VARS_TO_PROPAGATE.update(variables)
    try:
        yield
    finally:
        ENV_VARS_TO_PROPAGATE.difference_update(variables.keys() - listed)
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class _StartStep:
    """Finds the step that a (re)started worker group begins with, as the workers do."""

    checkpoints: str

    def __call__(self) -> int:
        checkpoint = newest_checkpoint(Path(self.checkpoints))
        return checkpoint.state.step if checkpoint else 0


def _train_on_worker(payload: dict[str, Any]) -> None:
    job: WorkerJob = payload["job"]
    if job.choices.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train announces every report of every rank
    run_dir = Path(job.run_dir)
    raise_fault(run_dir)  # one of ours would only come again: do not spend the restarts on it

    def shares(start_step: int, ranks: Ranks) -> Iterable[StepShare]:
        return iter_steps(
            ray.train.get_dataset_shard(SHARD_NAME),
            rank=ranks.rank,
            world_size=ranks.world_size,
            start_step=start_step,
            num_steps=job.num_steps,
        )

    try:
        run_worker(replace(job, choices=_on_device(job.choices)), shares, report=ray.train.report)
    except RmrayError as error:
        write_fault(run_dir, error)
        raise


def _on_device(choices: Choices) -> Choices:
    """A worker's own GPU instead of just `cuda`."""
    if choices.device != "cuda":
        return choices
    from ray.train.torch import get_device

    return replace(choices, device=str(get_device()))


def _export(job: WorkerJob, checkpoint: Checkpoint, metrics: dict[str, Any]) -> None:
    """Make the bundle, in a task with a worker's resources."""
    workers = job.config.workers
    export = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=0)(_export_on_worker)
    _get(export.remote(job, str(checkpoint.model_dir), metrics))


def _export_on_worker(job: WorkerJob, model_dir: str, metrics: dict[str, Any]) -> None:
    export_run(job, Path(model_dir), metrics)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
