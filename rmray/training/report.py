"""The page of a finished run: its bundle on held-out comparisons. Run by `trainer` and `ensemble`, in a task; no Ray.

RUN/evaluation.json and RUN/report.html. `rmray evaluate` makes the same of any data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rmray.config.train import TrainConfig
from rmray.data.prepared import load_manifest
from rmray.errors import DataError
from rmray.evaluation.adversarial import run_adversarial
from rmray.evaluation.files import open_bundle, read_surface, shown_names
from rmray.evaluation.record import save_evaluation
from rmray.evaluation.report import read_run_facts, write_report
from rmray.evaluation.run import score_records, side_by_side
from rmray.evaluation.tokens import token_scorer
from rmray.evaluation_file import EVALUATION_NAME, REPORT_NAME
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
    """Evaluate RUN/bundle on comparisons of `sample_records` and write the page; its path.

    Without held-out comparisons they are training ones, and the page says so. Raises DataError where none could be
    scored.
    """
    manifest = load_manifest(prepared_dir)
    held_out = manifest.eval.num_rows > 0
    source = open_bundle(run_dir / BUNDLE_DIR, device=device)
    logs = score_records([source], records, seed=config.run.seed)
    data = config.data.eval if held_out and config.data.eval else config.data.train
    evaluations = side_by_side(
        [source.info],
        logs,
        score_tokens=[token_scorer(source)],
        data=[f"{'held-out' if held_out else 'training'} comparisons of {name}" for name in shown_names(data)],
        train=read_surface(config.data.train, config.data.columns) if held_out and config.data.eval else None,
        seed=config.run.seed,
    )
    comparisons = ((row_id, record) for row_id, _, record in records)
    max_comparisons = max(1, round(len(records) * ADVERSARIAL_SHARE))
    with contextlib.suppress(DataError):  # token ids have no text to put flaws into
        adversarial = run_adversarial(source, comparisons, max_comparisons=max_comparisons, seed=config.run.seed)
        evaluations = replace(evaluations, adversarial=(adversarial.to_json(),))
    evaluation = evaluations.to_json()
    save_evaluation(run_dir / EVALUATION_NAME, evaluation)
    write_report(run_dir / REPORT_NAME, evaluation, run=read_run_facts(run_dir, quarantine=manifest.quarantined))
    return run_dir / REPORT_NAME
