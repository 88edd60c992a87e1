"""Make the bundle of a finished run, normalised against held-out records. Run by `trainer` in a task; no Ray here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from rmray.config.train import TrainConfig
from rmray.data.prepared import Manifest, load_manifest
from rmray.data.render import RenderRules
from rmray.data.sources import read_records
from rmray.data.tokenizer import load_base_tokenizer
from rmray.models.bundle import export_bundle
from rmray.schema import Comparison, ScoreRequest, TokenIds
from rmray.training.job import WorkerJob

BUNDLE_DIR = "bundle"
MAX_REFERENCE_RECORDS = 200


def export_run(job: WorkerJob, model_dir: Path, metrics: dict[str, Any]) -> None:
    """Write RUN/bundle from a checkpoint's model directory, in place of an earlier one."""
    config, prepared_dir = job.config, Path(job.source.prepared_dir)
    manifest = load_manifest(prepared_dir)
    torch.set_num_threads(config.workers.cpus)
    requests, source = reference_requests(prepared_dir, config)
    export_bundle(
        model_dir,
        Path(job.run_dir) / BUNDLE_DIR,
        name=config.run.name,
        objective=config.objective.name,
        pooling=config.model.pooling,
        rules=RenderRules(**manifest.render_rules),
        reference=requests,
        reference_source=source,
        base=public_name(config.model.base),
        data_hashes={public_name(entry["path"]): entry["sha256"] for entry in manifest.inputs},
        metrics={key: float(value) for key, value in metrics.items() if value is not None},
        pad=load_base_tokenizer(config.model.base)[1],
        overwrite=True,
        device=job.choices.device,
    )


def public_name(source: str) -> str:
    """A Hub id or URL as it is, of a local path its last part: a bundle tells nothing of the machine it was made on."""
    return Path(source).name if Path(source).expanduser().exists() else source


def reference_requests(
    prepared_dir: Path, config: TrainConfig, *, limit: int = MAX_REFERENCE_RECORDS
) -> tuple[list[ScoreRequest], str]:
    """At most `limit` comparisons as requests, in an order of their own, and what they are, for readers.

    Held-out ones where there are some, else training ones. Which ones, a hash of their row ids decides.
    """
    manifest = load_manifest(prepared_dir)
    held_out = manifest.eval.num_rows > 0
    windows = manifest.eval.windows if held_out else manifest.train.windows
    tables = (pq.read_table(prepared_dir / window.path, columns=["row_id"]) for window in windows)
    row_ids = [row_id for table in tables for row_id in table["row_id"].to_pylist()]
    rank = {row_id: place for place, row_id in enumerate(sorted(row_ids, key=_order)[:limit])}
    sources = config.data.eval if config.data.eval else config.data.train
    found: dict[int, ScoreRequest] = {}
    for source in sources if held_out else config.data.train:
        for row_id, _, record in read_records(source, objective=config.objective.name, columns=config.data.columns):
            if row_id in rank and isinstance(record, Comparison):
                found[rank[row_id]] = _request(record, manifest)
            if len(found) == len(rank):
                break
    return [found[place] for place in sorted(found)], f"{'held-out' if held_out else 'training'} comparisons"


def _order(row_id: str) -> str:
    return hashlib.sha256(row_id.encode()).hexdigest()


def _request(record: Comparison, manifest: Manifest) -> ScoreRequest:
    by_ids = any(isinstance(content, TokenIds) for content in (record.prompt, *record.completions))
    return ScoreRequest(
        prompt=record.prompt,
        completions=record.completions,
        tools=record.tools,
        tokenizer_hash=manifest.tokenizer_hash if by_ids else None,
    )
