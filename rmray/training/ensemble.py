"""A Ray door: train an ensemble's members as whole runs that differ in their seed alone, and combine their bundles.

Called by `rmray train` where `ensemble.members` is above 1:
plan -> prepare once -> look up what is finished -> the rest through Tune -> RUN/bundle of all -> RUN/report.html
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import ray

from rmray.config.train import TrainConfig
from rmray.connect import connected
from rmray.data.prepare import format_ledger, prepare_for
from rmray.errors import DataError, RmrayError, TrainingError
from rmray.models.bundle.manifest import BundleManifest, read_manifest
from rmray.models.files import check_base
from rmray.training.auto import check_capacity
from rmray.training.ensemble_plan import (
    EnsembleOutcome,
    combination_of,
    finished_bundle,
    is_combined,
    look_up,
    plan_members,
)
from rmray.training.export import BUNDLE_DIR, MAX_REFERENCE_RECORDS, reference_requests
from rmray.training.held_out import sample_records
from rmray.training.lock import hold_run
from rmray.training.repeats import run_dir_of
from rmray.training.run_dir import check_free, check_same, identify, open_run
from rmray.training.storage import storage_warnings, with_absolute_paths
from rmray.training.storage_check import check_seen_by_all
from rmray.training.sweep_plan import Trial, concurrent_trials
from rmray.training.trials import run_trials


def train_ensemble(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> EnsembleOutcome:
    """Train storage/NAME-seed-0 and on, as many at a time as the cluster holds, and write storage/NAME/bundle.

    resume: go on with what is unfinished; finished members are not trained again, nor is a finished ensemble combined
    again. overwrite: start all of them over. A member that fails stops no other. Raises as `trainer.train`, before any
    member begins where one of the directories is in use, and TrainingError, naming them, where members failed.
    """
    for warning in storage_warnings(config, directory=Path.cwd(), environ=os.environ):
        _say(f"warning: {warning}")
    config = with_absolute_paths(config)
    members, run_dir = plan_members(config), run_dir_of(config)
    for each in (config, *members):
        check_free(run_dir_of(each), resume=resume, overwrite=overwrite)
    check_base(config.model.base, config.pooling)
    with hold_run(run_dir), connected():
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        check_capacity(config, resources)
        for warning in check_seen_by_all(Path(config.run.storage), nodes):
            _say(f"warning: {warning}")
        prepared = prepare_for(config)
        _say(format_ledger(prepared.manifest))
        identity = identify(config, prepared.manifest)
        if resume:
            check_same(run_dir, identity)
        looked_up = [look_up(member, identity, overwrite=overwrite) for member in members]
        trials = [trial for trial in looked_up if trial is not None]
        open_run(run_dir, config, identity, overwrite=overwrite)
        at_once = concurrent_trials(config, resources)
        _say(
            f"ensemble of {len(members)}: {len(members) - len(trials)} finished before, {len(trials)} to go, at most "
            f"{at_once} at a time -> {run_dir}"
        )
        _train(trials, run_dir, at_once=at_once, overwrite=overwrite)
        made = [_made(run_dir_of(member)) for member in members]
        if not is_combined(run_dir, made, combination_of(config)):
            workers = config.workers
            combine = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_retries=0)(_combine_on_worker)
            _say(ray.get(combine.remote(config, members, prepared.directory)))
    bundle = run_dir / BUNDLE_DIR
    version = read_manifest(bundle).model_version
    return EnsembleOutcome(run_dir, bundle, version, combination_of(config), tuple(made))


def _train(trials: Sequence[Trial], run_dir: Path, *, at_once: int, overwrite: bool) -> None:
    results = run_trials(trials, run_dir, at_once=at_once, overwrite=overwrite) if trials else {}
    failed = {name: told for name, told in results.items() if isinstance(told, str)}
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(results)} members failed",
            where=str(run_dir),
            why="\n       ".join(f"{name}: {told}" for name, told in failed.items()),
            next_step="mend it and give the same command with --resume: finished members are kept",
        )


def _made(run_dir: Path) -> BundleManifest:
    manifest = finished_bundle(run_dir)
    if manifest is None:
        raise TrainingError("the member ended without a sound bundle", where=str(run_dir))
    return manifest


def _combine_on_worker(config: TrainConfig, members: Sequence[TrainConfig], prepared_dir: Path) -> str:
    """Make RUN/bundle and its page with a worker's resources; what there is to say of the page."""
    import torch

    from rmray.data.prepared import load_manifest
    from rmray.models.bundle import build_ensemble
    from rmray.models.bundle.ensemble import reference_of_members
    from rmray.training.report import report_bundle

    torch.set_num_threads(config.workers.cpus)
    device = "cuda" if config.workers.gpus else "cpu"
    run_dir, bundles = run_dir_of(config), [run_dir_of(member) / BUNDLE_DIR for member in members]
    num_reported = config.evaluate.report_comparisons
    records = sample_records(prepared_dir, members[0], limit=max(MAX_REFERENCE_RECORDS, num_reported))
    try:
        reference = reference_of_members(bundles)
    except DataError:  # they do not hold it: made anew, as each of them made it
        reference = reference_requests(records, load_manifest(prepared_dir).tokenizer_hash)
    build_ensemble(
        bundles,
        run_dir / BUNDLE_DIR,
        name=config.run.name,
        reference=reference,
        combination=combination_of(config),
        overwrite=True,
        device=device,
    )
    if not num_reported:
        return "no report (evaluate.report_comparisons: 0)"
    try:
        return f"report: {report_bundle(run_dir, config, prepared_dir, records[:num_reported], device=device)}"
    except RmrayError as error:  # the bundle is whole without
        return f"warning: no report: {error}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
