"""Run the training loop on Ray Train's workers, through whatever befalls them. The Ray Train door, called by `trainer`.

Ray Train starts the workers, feeds them planned steps and starts them again when one is gone. What it cannot know is
decided here: where to begin (the newest sound checkpoint), that an error of ours would only come again, that a worker
hangs, and that failures between which the run gets on are no reason to give up.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.execution.context import get_train_context

from rmray.config.train import TrainConfig
from rmray.connect import probe
from rmray.data.stream import SHARD_NAME, TrainingDataConfig, open_steps
from rmray.errors import BundleError, ClusterError, RmrayError, RunError, RunInterruptedError, TrainingError
from rmray.training.auto import Choices
from rmray.training.checkpoint import Checkpoint, CheckpointStore
from rmray.training.early_stopping import is_out_of_patience
from rmray.training.engine import Ranks
from rmray.training.events import EventLog
from rmray.training.faults import forget_fault, has_fault, is_of_another_rank, raise_fault, what_failed, write_fault
from rmray.training.job import WorkerJob
from rmray.training.lock import still_held
from rmray.training.notices import forget_stop, request_stop
from rmray.training.progress import follow, make_display
from rmray.training.storage import checkpoint_place
from rmray.training.watchdog import Watchdog

RAY_DIR = "ray"
PLACE_TIMEOUT_S = 300  # that workers may wait for their places: Ray Train asks for them anew after 60
# An elastic run is better off counting what there is again: for up to 20 s after a node is gone, Ray counts it still.
ELASTIC_PLACE_TIMEOUT_S = 20
COUNT_PLACES_EVERY_S = 60.0  # of an elastic run, which starts its workers anew where there is another number of them
COLLECTIVES_WAIT_LONGER_S = 60  # the watchdog, which names what hangs, comes first
HUNG = 75  # exit code of a worker that ends itself


def fit(job: WorkerJob, store: CheckpointStore, events: EventLog) -> None:
    """Run the workers, showing their progress, until the last step is saved.

    Ray Train starts them again after a failure, `max_failures` times in all. As long as each such series brings a newer
    checkpoint there is another one: a long run may meet any number of failures, a hopeless one ends soon. The same goes
    for the actor from which Ray Train steers; where the whole cluster has gone, ClusterError says so.
    """
    run_dir = Path(job.run_dir)
    address = ray.get_runtime_context().gcs_address
    unsteered_in_a_row = 0
    with (
        _stopping_on_sigterm(run_dir),
        _controller_environment(job.config),
        follow(run_dir, make_display(job.num_steps)),
    ):
        while True:
            if not still_held(run_dir, job.owner):
                raise RunError("another process has taken over this run", where=str(run_dir))
            before = set(store.list())
            forget_fault(run_dir)
            shutil.rmtree(run_dir / RAY_DIR, ignore_errors=True)
            try:
                _make_trainer(job).fit()
            except ray.train.TrainingFailedError as error:
                raise_fault(run_dir)
                if not set(store.list()) - before:
                    raise what_failed(run_dir, getattr(error, "worker_failures", {}), str(error)) from error
                continue
            except ray.exceptions.RayError as error:
                raise_fault(run_dir)
                unsteered_in_a_row = 0 if set(store.list()) - before else unsteered_in_a_row + 1
                if probe(address) == "silent":
                    raise _cluster_lost(address, _newest_step(store), error) from error
                if unsteered_in_a_row > job.config.workers.max_failures:
                    raise what_failed(run_dir, {}, str(error)) from error
                continue
            raise_fault(run_dir)
            if not is_finished(store.newest(verify=False), job):
                raise RunInterruptedError(
                    "the run was told to stop, and has saved what it had",
                    where=str(run_dir),
                    why=f"step {_newest_step(store)} of {job.num_steps} is saved",
                    next_step="run the same command with --resume: it goes on from there",
                )
            return


def is_finished(checkpoint: Checkpoint | None, job: WorkerJob) -> bool:
    """Whether a run, whose newest checkpoint this is, is complete. One that was stopped early goes on where it is given
    more patience than it had."""
    if checkpoint is None or not checkpoint.state.finished:
        return False
    return checkpoint.step >= job.num_steps or is_out_of_patience(
        checkpoint.state.memory["early_stopping"], job.config.evaluate.patience
    )


def _newest_step(store: CheckpointStore) -> int:
    return max(store.list(), default=0)


def _cluster_lost(address: str, step: int, error: ray.exceptions.RayError) -> ClusterError:
    return ClusterError(
        "the Ray cluster that trained this run is gone",
        where=address,
        why=(str(error).splitlines() or [type(error).__name__])[0],
        next_step=f"start it again and run the same command with --resume: step {step} is saved",
    )


def _make_trainer(job: WorkerJob) -> TorchTrainer:
    config = job.config
    workers = config.workers
    return TorchTrainer(
        _train_on_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if job.choices.device == "cuda" else "gloo",
            timeout_s=int(workers.timeout_s) + COLLECTIVES_WAIT_LONGER_S,
        ),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=workers.num,  # type: ignore[arg-type]
            use_gpu=bool(workers.gpus),
            resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if workers.gpus else {})},
            elastic_resize_monitor_interval_s=COUNT_PLACES_EVERY_S,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=RAY_DIR,
            storage_path=job.run_dir,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        datasets={**TrainingDataConfig.datasets()},
        dataset_config=TrainingDataConfig(job.source, start_step=_StartStep(job.run_dir, checkpoint_place(config))),
    )


@contextlib.contextmanager
def _stopping_on_sigterm(run_dir: Path) -> Iterator[None]:
    """Within it SIGTERM (a job that is stopped, a pod that is evicted) has the workers save and end, where this is the
    process's main thread. The signal after it ends the process as usual."""
    forget_stop(run_dir)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        request_stop(run_dir)
        signal.signal(signal.SIGTERM, earlier)
        print("told to stop: saving at the next step", file=sys.stderr, flush=True)

    earlier = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextlib.contextmanager
def _controller_environment(config: TrainConfig) -> Iterator[None]:
    """What the actors of Ray Train need to know: which of several Rays on a machine is ours, and to be quiet.

    Ray Train hands on a fixed list of variables, so ours are added to it.
    """
    elastic = config.workers.min_num < config.workers.max_num
    variables = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_DATA_LOG_LEVEL": "ERROR",
        "RAY_LOGGER_LEVEL": "error",  # without a dashboard one of them complains every second
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(ELASTIC_PLACE_TIMEOUT_S if elastic else PLACE_TIMEOUT_S),
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(int(config.workers.timeout_s)),  # of a worker that is alone
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
    """Decides, for all ranks, the step that a (re)started worker group begins with: that of the newest checkpoint whose
    every file is sound."""

    run_dir: str
    place: str

    def __call__(self) -> int:
        events = EventLog(Path(self.run_dir))
        checkpoint = CheckpointStore(self.place).newest(
            warn=lambda text: events.write("checkpoint_damaged", message=text)
        )
        return checkpoint.step if checkpoint else 0


def _train_on_worker(payload: dict[str, Any]) -> None:
    from rmray.training.worker import run_worker  # and the model code, which the actors that steer do without

    job: WorkerJob = payload["job"]
    if job.choices.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train announces every report of every rank
    run_dir = Path(job.run_dir)
    if has_fault(run_dir):
        return  # an error of ours would only come again; the driver raises it
    job = replace(job, choices=_on_device(job.choices))
    ranks = Ranks(job.choices.device)
    watchdog = Watchdog(
        job.config.workers.timeout_s,
        partial(_leave_hanging, run_dir, ranks.rank),
        notice=partial(_reason_to_leave, run_dir, job.owner),
        on_notice=_leave,
    )
    try:
        with watchdog:
            start_step, shares = open_steps(
                ray.train.get_dataset_shard(SHARD_NAME),
                rank=ranks.rank,
                world_size=ranks.world_size,
                num_steps=job.num_steps,
            )
            _check_agreed(start_step, ranks)
            store = CheckpointStore(checkpoint_place(job.config))
            checkpoint = store.open(start_step, verify=False) if start_step else None
            if is_finished(checkpoint, job):
                return  # it was the last save that was followed by a break
            run_worker(job, checkpoint, shares, beat=watchdog.beat, preempted=_is_preempted)
    except (RmrayError, ray.exceptions.RayTaskError) as error:
        fault = getattr(error, "cause", error)  # what planning raised, out of the wrapping of its actor
        if not isinstance(fault, RmrayError) or isinstance(fault, (RunError, BundleError)):
            raise  # storage that is away may come back: Ray Train tries again
        if is_of_another_rank(fault):
            raise  # it broke off what this rank was doing, be it loading the model
        write_fault(run_dir, fault)  # and end as if all were well: Ray Train must not try again


def _check_agreed(start_step: int, ranks: Ranks) -> None:
    steps = ranks.gather(start_step)
    if len(set(steps)) > 1:
        raise TrainingError(
            "the ranks were told to begin with different steps",
            where=f"steps {', '.join(map(str, steps))} of ranks 0 to {len(steps) - 1}",
            why="batches must arrive in the planned order, and these did not",
            next_step="resume from the last checkpoint; should it happen again, report it with the version of ray",
        )


def _leave_hanging(run_dir: Path, rank: int, doing: str, waited_s: float) -> None:
    EventLog(run_dir).write("hang", rank=rank, doing=doing, waited_s=waited_s)
    faulthandler.dump_traceback(sys.stderr)
    os._exit(HUNG)


def _reason_to_leave(run_dir: Path, owner: str) -> str | None:
    if has_fault(run_dir):
        return "another rank has failed for good"
    return None if still_held(run_dir, owner) else "another process has taken over this run"


def _leave(notice: str) -> None:
    print(f"rmray worker ends: {notice}", file=sys.stderr, flush=True)
    os._exit(HUNG)


def _is_preempted() -> bool:
    """Whether a node of the run is draining. What Ray Train has told this worker, without its barrier over all ranks:
    the ranks agree by themselves, in the step's first reduction."""
    return get_train_context().preemption_context.preemption_info is not None


def _on_device(choices: Choices) -> Choices:
    """A worker's own GPU instead of just `cuda`."""
    if choices.device != "cuda":
        return choices
    from ray.train.torch import get_device

    return replace(choices, device=str(get_device()))
