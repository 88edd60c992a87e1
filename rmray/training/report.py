"""The page of a finished run: its bundle on held-out records. Run by `trainer` and `ensemble` in a task; no Ray here.

RUN/evaluation.json and RUN/report.html. `rmray evaluate` makes the same of any data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmray.config.train import TrainConfig
from rmray.data.prepared import load_manifest
from rmray.errors import DataError
from rmray.evaluation.adversarial import run_adversarial
from rmray.evaluation.files import open_bundle, read_surface, shown_names
from rmray.evaluation.labelled import LABELLED
from rmray.evaluation.labelled.files import labelled_set, read_texts
from rmray.evaluation.labelled.record import Kind
from rmray.evaluation.labelled.run import score_labelled
from rmray.evaluation.record import save_evaluation
from rmray.evaluation.report import read_run_facts, write_report
from rmray.evaluation.run import score_records, side_by_side
from rmray.evaluation.source import ScorerSource
from rmray.evaluation.tokens import token_scorer
from rmray.evaluation_file import EVALUATION_NAME, REPORT_NAME
from rmray.schema import Comparison
from rmray.training.export import BUNDLE_DIR
from rmray.training.held_out import SampledRecord
from rmray.training.job import WorkerJob

ADVERSARIAL_SHARE = 0.1
"""Of the comparisons, those that are scored again with flaws and dress-up: each makes some twenty completions."""


def report_run(job: WorkerJob, records: Sequence[SampledRecord]) -> Path:
    """As `report_bundle`, of a single run."""
    device = job.choices.device
    return report_bundle(Path(job.run_dir), job.config, Path(job.source.prepared_dir), records, device=device)


def report_bundle(
    run_dir: Path, config: TrainConfig, prepared_dir: Path, records: Sequence[SampledRecord], *, device: str
) -> Path:
    """Evaluate RUN/bundle on records of `sample_records` and write the page; its path.

    Without held-out records they are training ones, and the page says so. Raises DataError where none could be scored.
    """
    manifest = load_manifest(prepared_dir)
    held_out = manifest.eval.num_rows > 0
    source = open_bundle(run_dir / BUNDLE_DIR, device=device)
    kind = next((kind for kind in LABELLED if kind == source.info.kind), None)
    if kind is None:
        evaluation = _compared(source, config, records, held_out=held_out)
    else:
        evaluation = _labelled(source, config, records, kind=kind, held_out=held_out)
    save_evaluation(run_dir / EVALUATION_NAME, evaluation)
    write_report(run_dir / REPORT_NAME, evaluation, run=read_run_facts(run_dir, quarantine=manifest.quarantined))
    return run_dir / REPORT_NAME


def _compared(
    source: ScorerSource, config: TrainConfig, records: Sequence[SampledRecord], *, held_out: bool
) -> dict[str, Any]:
    comparisons = [(row_id, line, record) for row_id, line, record in records if isinstance(record, Comparison)]
    logs = score_records([source], comparisons, seed=config.run.seed)
    evaluations = side_by_side(
        [source.info],
        logs,
        score_tokens=[token_scorer(source)],
        data=_data_names(config, "comparisons", held_out=held_out),
        train=read_surface(config.data.train, config.data.columns) if held_out and config.data.eval else None,
        seed=config.run.seed,
    )
    named = ((row_id, record) for row_id, _, record in comparisons)
    max_comparisons = max(1, round(len(comparisons) * ADVERSARIAL_SHARE))
    with contextlib.suppress(DataError):  # token ids have no text to put flaws into
        adversarial = run_adversarial(source, named, max_comparisons=max_comparisons, seed=config.run.seed)
        evaluations = replace(evaluations, adversarial=(adversarial.to_json(),))
    return evaluations.to_json()


def _labelled(
    source: ScorerSource, config: TrainConfig, records: Sequence[SampledRecord], *, kind: Kind, held_out: bool
) -> dict[str, Any]:
    labelled = [(row_id, line, record) for row_id, line, record in records if not isinstance(record, Comparison)]
    train = read_texts(config.data.train, config.data.columns, kind=kind) if held_out and config.data.eval else None
    log = score_labelled(source, labelled, sample_texts=train is not None)
    data = _data_names(config, f"{kind} records", held_out=held_out)
    return labelled_set(source.info, log, kind=kind, data=data, train=train, seed=config.run.seed).to_json()


def _data_names(config: TrainConfig, what: str, *, held_out: bool) -> list[str]:
    data = config.data.eval if held_out and config.data.eval else config.data.train
    return [f"{'held-out' if held_out else 'training'} {what} of {name}" for name in shown_names(data)]
