"""Make the bundle of a finished run, normalised against held-out records. Run by `trainer` in a task; no Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rmray.data.prepared import load_manifest
from rmray.data.render import RenderRules
from rmray.data.tokenizer import load_base_tokenizer
from rmray.models.bundle import export_bundle
from rmray.models.bundle.public import public_hashes, public_source
from rmray.schema import ScoreRequest, request_of_own_ids
from rmray.training.held_out import SampledRecord
from rmray.training.job import WorkerJob

BUNDLE_DIR = "bundle"
MAX_REFERENCE_RECORDS = 200


def export_run(job: WorkerJob, model_dir: Path, metrics: dict[str, Any], records: Sequence[SampledRecord]) -> None:
    """Write RUN/bundle from a checkpoint's model directory, in place of an earlier one.

    records: comparisons of `sample_records`, the first MAX_REFERENCE_RECORDS of which are the reference set.
    """
    config, prepared_dir = job.config, Path(job.source.prepared_dir)
    manifest = load_manifest(prepared_dir)
    torch.set_num_threads(config.workers.cpus)
    export_bundle(
        model_dir,
        Path(job.run_dir) / BUNDLE_DIR,
        name=config.run.name,
        objective=config.objective.name,
        pooling=config.model.pooling,
        rules=RenderRules(**manifest.render_rules),
        reference=reference_requests(records, manifest.tokenizer_hash),
        reference_source=f"{'held-out' if manifest.eval.num_rows else 'training'} comparisons",
        base=public_source(config.model.base),
        data_hashes=public_hashes((entry["path"], entry["sha256"]) for entry in manifest.inputs),
        metrics={key: float(value) for key, value in metrics.items() if value is not None},
        pad=load_base_tokenizer(config.model.base)[1],
        overwrite=True,
        device=job.choices.device,
    )


def reference_requests(records: Sequence[SampledRecord], tokenizer_hash: str) -> list[ScoreRequest]:
    """The reference set of a run, or of an ensemble's runs: the same whatever the seed, as `sample_records` is."""
    return [
        request_of_own_ids(record.prompt, record.completions, tokenizer_hash, tools=record.tools)
        for _, _, record in records[:MAX_REFERENCE_RECORDS]
    ]
