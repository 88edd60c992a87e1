"""A training run from config to bundle: prepare, train, export. Called by `rmray train`; Ray Train itself is in `fit`.

check the run directory -> join Ray -> prepare -> look at machine and model -> check what is resumed
-> fit -> newest (or best) checkpoint -> bundle
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from rmray.config.train import ModelConfig, TrainConfig
from rmray.connect import connected
from rmray.data.prepare import format_ledger, prepare_for
from rmray.errors import BundleError, RmrayError, RunError, RunInterruptedError, TrainingError
from rmray.models.bundle.manifest import MANIFEST_NAME, check_files, read_manifest
from rmray.models.files import check_base
from rmray.training import run_dir as runs
from rmray.training.accounting import account, format_account
from rmray.training.auto import Choices, Machine, ModelShape, check_capacity, choose, keep_choices
from rmray.training.checkpoint import Checkpoint, CheckpointStore
from rmray.training.events import EventLog
from rmray.training.export import BUNDLE_DIR, MAX_REFERENCE_RECORDS, export_run
from rmray.training.fit import fit, is_finished
from rmray.training.held_out import sample_records
from rmray.training.job import WorkerJob, make_job
from rmray.training.lock import hold_run
from rmray.training.metrics_log import METRICS_FILE, figures_of
from rmray.training.repeats import check_single
from rmray.training.storage import checkpoint_place, is_url, storage_warnings, with_absolute_paths
from rmray.training.storage_check import check_seen_by_all
from rmray.training.warm_start import check_outside, check_rules, named_reference, warm_start_of

CHOICES_FILE = "choices.json"  # what `auto` came to


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """A finished run. metrics: number of steps, last step's and held-out figures, all of the bundle's checkpoint."""

    run_dir: Path
    bundle_dir: Path
    metrics: dict[str, Any]


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> TrainOutcome:
    """Run a training config to its bundle on the Ray that is initialised, or named by RAY_ADDRESS, or a local one.

    resume: go on from the newest sound checkpoint of the run (from the start where there is none), so that the same
    command, given again, goes on after whatever happened. overwrite: delete the run first. Raises RunError (directory
    in use; a resume that does not fit), ClusterError (more than the cluster has; storage that a node does not see),
    ModelError, DataError, ConfigError, TrainingError, and RunInterruptedError where this process was told to terminate.
    """
    check_single(config)
    _warn(storage_warnings(config, directory=Path.cwd(), environ=os.environ))
    config = with_absolute_paths(config)
    run_dir = Path(config.run.storage) / config.run.name
    check_outside(run_dir, config)
    runs.check_free(run_dir, resume=resume, overwrite=overwrite)
    check_base(config.model.base, config.pooling)
    with hold_run(run_dir) as owner, connected():
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        workers_per_node = check_capacity(config, [node["Resources"] for node in nodes if node["Alive"]])
        look = _look_from_a_worker(config, workers_per_node)
        _check_shared(config, nodes)
        prepared = prepare_for(config)
        _say(format_ledger(prepared.manifest))
        named_reference(config)  # what is wrong with it is told before training
        if old := warm_start_of(config.model.base):
            check_rules(old, config, prepared.manifest.render_rules)
        choices = choose(config, *_get(look))
        identity = runs.identify(config, prepared.manifest)
        store = CheckpointStore(checkpoint_place(config))
        store.check_writable()
        if overwrite:  # where they lie outside of the run directory
            for step in (*store.list(), *store.incomplete()):
                store.delete(step)
        if resume:
            runs.check_same(run_dir, identity)
            before = runs.load_identity(run_dir)
            changes = runs.version_changes(before, identity) if before else []
            _warn(f"changed since this run began: {line}" for line in changes)
            choices = _choose_as_before(run_dir, config, choices)
        _check_checkpoints(store, identity, resume=resume)
        runs.open_run(run_dir, config, identity, overwrite=overwrite)
        runs.write_whole(run_dir / CHOICES_FILE, lambda path: path.write_text(json.dumps(asdict(choices))))
        job = make_job(
            str(run_dir),
            config,
            choices,
            prepared_dir=str(prepared.directory),
            pad_id=int(prepared.manifest.render_rules["pad_id"]),
            identity=identity,
            owner=owner,
        )
        _say(_describe(job))
        trained = not is_finished(store.newest(warn=_say), job)
        events = EventLog(run_dir)
        events.write("run_started", resume=resume)
        if trained:
            try:
                fit(job, store, events)
            except RmrayError as error:
                events.write("interrupted" if isinstance(error, RunInterruptedError) else "failed", message=str(error))
                raise
        checkpoint = store.best(warn=_say) if config.checkpoint.export == "best" else store.newest(warn=_say)
        if checkpoint is None:
            raise TrainingError("the run ended without a checkpoint", where=str(run_dir))
        metrics = _figures(run_dir, checkpoint)
        if trained or not _is_exported(run_dir, checkpoint):
            _export(job, checkpoint, metrics)
        events.write("finished", step=checkpoint.step)
        if trained:
            _say(format_account(account(run_dir)))
    return TrainOutcome(run_dir, run_dir / BUNDLE_DIR, metrics)


def _choose_as_before(run_dir: Path, config: TrainConfig, choices: Choices) -> Choices:
    """The choices of a resumed run: what `auto` came to at its start, so that batches go on being cut alike."""
    path = run_dir / CHOICES_FILE
    if not path.exists():
        return choices
    before = Choices(**json.loads(path.read_text()))
    names = {True: "bfloat16", False: "float32"}
    if before.bfloat16 != choices.bfloat16:
        change = f"model.dtype ({config.model.dtype}): {names[before.bfloat16]} -> {names[choices.bfloat16]}"
        runs.refuse([change], where=str(run_dir))
    return keep_choices(config, before=before, now=choices)


def _check_shared(config: TrainConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    places = {"run.storage": config.run.storage, "checkpoint.storage": config.checkpoint.storage}
    for field, place in places.items():
        if place is not None and not is_url(place):
            _warn(check_seen_by_all(Path(place), nodes, field=field))


def _check_checkpoints(store: CheckpointStore, identity: Mapping[str, Any], *, resume: bool) -> None:
    """Raise RunError where checkpoints of another run lie in this one's place: it would go on from those."""
    newest = store.newest(verify=False)
    if newest is None:
        return
    if not resume:
        raise RunError(
            "there are checkpoints where this run's would be",
            where=store.where,
            next_step="add --resume to go on from the newest, --overwrite to delete them, or change run.name",
        )
    other = newest.state.identity
    if not other.keys() >= {"settings", "data", "model"}:
        runs.refuse(["it does not tell what run it is of: another rmray wrote it"], where=newest.where)
    runs.refuse(runs.differences(other, identity), where=newest.where)


def _figures(run_dir: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """What is told of the checkpoint that becomes the bundle: its own figures, whatever came before or after it."""
    return {"steps": checkpoint.step, **figures_of(run_dir / METRICS_FILE, checkpoint.step - 1)}


def _is_exported(run_dir: Path, checkpoint: Checkpoint) -> bool:
    """Whether the bundle is there, and sound, and of this checkpoint: checkpoint.export may have changed since."""
    bundle = run_dir / BUNDLE_DIR
    if not (bundle / MANIFEST_NAME).exists():
        return False
    try:
        manifest = read_manifest(bundle)
        check_files(bundle, manifest.files)
    except BundleError as error:
        _say(f"the bundle is made anew: {error.what}")
        return False
    return manifest.metrics.get("steps") == checkpoint.step


def _look_from_a_worker(config: TrainConfig, workers_per_node: int) -> Any:
    """Start a task that looks at model and machine with a worker's resources, while data is prepared."""
    workers = config.workers
    look = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=0)(_look)
    return look.remote(config.model, bool(workers.gpus), workers_per_node)


def _look(model: ModelConfig, gpu: bool, workers_here: int) -> tuple[ModelShape, Machine]:
    from rmray.training.machine import inspect_machine, inspect_model

    return inspect_model(model), inspect_machine(gpu=gpu, workers_here=workers_here)


def _get(reference: Any) -> Any:
    """The value of a task; a fault of ours is raised as it was, without the task's traceback around it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RmrayError):
            raise error.cause from None
        raise


def _describe(job: WorkerJob) -> str:
    choices, workers = job.choices, job.config.workers
    dtype = "bfloat16" if choices.bfloat16 else "float32"
    num = str(workers.num) if isinstance(workers.num, int) else f"{workers.min_num} to {workers.max_num}"
    return (
        f"training {job.num_steps} steps on {num} worker(s) ({choices.device}), ZeRO stage "
        f"{choices.zero_stage}, {dtype}, at most {choices.max_micro_batch_tokens} tokens a forward"
        + (", gradient checkpointing" if choices.gradient_checkpointing else "")
        + f" -> {job.run_dir}"
    )


def _export(job: WorkerJob, checkpoint: Checkpoint, metrics: dict[str, Any]) -> None:
    """Make the bundle and its report, in a task with a worker's resources, on whichever node."""
    workers = job.config.workers
    export = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=0)(_export_on_worker)
    _say(_get(export.remote(job, checkpoint.step, metrics)))


def _export_on_worker(job: WorkerJob, step: int, metrics: dict[str, Any]) -> str:
    """What there is to say of the report."""
    from rmray.training.report import report_run

    checkpoint = CheckpointStore(checkpoint_place(job.config)).open(step, verify=False)
    num_reported = job.config.evaluate.report_comparisons
    limit = max(MAX_REFERENCE_RECORDS, num_reported)
    records = sample_records(Path(job.source.prepared_dir), job.config, limit=limit)
    export_run(job, checkpoint.model_dir, metrics, records)
    if not num_reported:
        return "no report (evaluate.report_comparisons: 0)"
    try:
        return f"report: {report_run(job, records[:num_reported])}"
    except RmrayError as error:  # the bundle is whole without
        return f"warning: no report: {error}"


def _warn(texts: Iterable[str]) -> None:
    for text in texts:
        _say(f"warning: {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
