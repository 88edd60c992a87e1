"""A small run from files of preferences to its bundle without Ray: what the suites of exports and warm starts do."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rmray.data.prepared import ROW_COLUMNS, Row, rows_from_table
from rmray.data.render import Renderer, RenderRules
from rmray.data.staging import RawLine, stage
from rmray.data.tokenizer import load_base_tokenizer, tokenizer_hash
from rmray.training.checkpoint import CheckpointStore
from rmray.training.export import BUNDLE_DIR, export_run
from rmray.training.held_out import sample_records
from rmray.training.job import WorkerJob
from rmray.training.storage import checkpoint_place
from tests.data.prepared_sets import write_prepared
from tests.training.runs import make_job, run_job

MAX_LENGTH = 64


def prepare(directory: Path, base: Path, train: Path, held_out: Path) -> int:
    """Write the set as `rmray prepare` does, but in this process; the pad's id."""
    tokenizer, pad = load_base_tokenizer(str(base))
    rules = RenderRules.for_tokenizer(tokenizer, max_length=MAX_LENGTH)
    renderer = Renderer(tokenizer, rules)
    manifest = write_prepared(directory, _staged(train, renderer), eval_rows=_staged(held_out, renderer))
    manifest = replace(manifest, render_rules=asdict(rules), tokenizer_hash=tokenizer_hash(tokenizer))
    manifest.save(directory)
    return pad.id


def _staged(path: Path, renderer: Renderer) -> list[Row]:
    content = path.read_bytes()
    file_hash = hashlib.sha256(content).hexdigest()[:16]
    lines = [RawLine(path.name, f"{file_hash}:{n}", n, line) for n, line in enumerate(content.splitlines(), 1)]
    part = stage(lines, renderer, objective="bradley_terry", columns={}, margin="none")
    assert not part.quarantined
    return rows_from_table(part.table().select(ROW_COLUMNS.names))


def train_to_bundle(
    run_dir: Path, base: Path, train: Path, held_out: Path, *, data: dict[str, Any] | None = None, **sections: Any
) -> tuple[WorkerJob, Path]:
    """Train on the bare engine and export; the job and its bundle."""
    prepared = run_dir.parent / f"{run_dir.name}-set"
    pad_id = prepare(prepared, base, train, held_out)
    files = {"train": [str(train)], "eval": [str(held_out)], "max_length": MAX_LENGTH}
    job = make_job(run_dir, base, prepared, max_tokens=400, data=files | (data or {}), **sections)
    job = replace(job, pad_id=pad_id)
    run_job(job, deepspeed=False)
    checkpoint = CheckpointStore(checkpoint_place(job.config)).newest()
    assert checkpoint is not None
    export_run(job, checkpoint.model_dir, {"steps": checkpoint.step}, sample_records(prepared, job.config, limit=200))
    return job, run_dir / BUNDLE_DIR
