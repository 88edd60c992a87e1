"""A small run from files of preferences to its bundle without Ray: what the suites of exports and warm starts do."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmray.data.prepared import ROW_COLUMNS, Row, rows_from_table
from rmray.data.render import Renderer, RenderRules
from rmray.data.staging import RawLine, stage
from rmray.data.tokenizer import load_base_tokenizer, tokenizer_hash
from rmray.models.bundle.export import sealed
from rmray.models.bundle.manifest import read_manifest, write_manifest
from rmray.models.reward import Unfinished
from rmray.training.checkpoint import CheckpointStore
from rmray.training.export import BUNDLE_DIR, export_run
from rmray.training.held_out import sample_records
from rmray.training.job import WorkerJob
from rmray.training.storage import checkpoint_place
from tests.data.prepared_sets import write_prepared
from tests.training.conftest import write_preferences
from tests.training.runs import make_job, run_job

MAX_LENGTH = 64
UNFINISHED = Unfinished("penalty", 0.5)
LORA = {"r": 4, "alpha": 64.0}


@dataclass(frozen=True, slots=True)
class Version:
    """A run with adapters: its job, the checkpoint's model directory, its bundle."""

    job: WorkerJob
    checkpoint_dir: Path
    bundle: Path


def two_versions(directory: Path, base: Path) -> tuple[Version, Version]:
    """A run from the base, merged, and one from its bundle on other rows, training and held out, its adapter apart. The
    first has a policy for unfinished completions and a licence of its own.

    The rates are large: adapters that hardly move would hide that they are missing.
    """
    files = [write_rows(directory / f"{i}.jsonl", skip=40 * i, number=24) for i in range(4)]
    old = train_to_bundle(directory / "old", base, *files[:2], model={"lora": LORA}, optim={"lr": 0.02})
    own = replace(read_manifest(old.bundle), unfinished=UNFINISHED, license="apache-2.0")
    write_manifest(old.bundle, sealed(old.bundle, own))
    apart = {"lora": LORA | {"export": "adapter"}}
    short = {"lr": 0.02, "max_steps": 3}
    return old, train_to_bundle(directory / "new", old.bundle, *files[2:], model=apart, optim=short)


def write_rows(path: Path, *, skip: int, number: int) -> Path:
    """Preferences of their own: so many after the first."""
    write_preferences(path, skip + number)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[skip:]))
    return path


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
) -> Version:
    """Train on the bare engine and export."""
    prepared = run_dir.parent / f"{run_dir.name}-set"
    pad_id = prepare(prepared, base, train, held_out)
    files = {"train": [str(train)], "eval": [str(held_out)], "max_length": MAX_LENGTH}
    job = make_job(run_dir, base, prepared, max_tokens=400, data=files | (data or {}), **sections)
    job = replace(job, pad_id=pad_id)
    run_job(job, deepspeed=False)
    checkpoint = CheckpointStore(checkpoint_place(job.config)).newest()
    assert checkpoint is not None
    export_run(job, checkpoint.model_dir, {"steps": checkpoint.step}, sample_records(prepared, job.config, limit=200))
    return Version(job, checkpoint.model_dir, run_dir / BUNDLE_DIR)
