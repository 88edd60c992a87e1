"""Records that a finished run is shown: held-out ones where there are some. Read from the run's own files. No Ray.

Called by `export` for the reference set and by `report`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq

from rmray.config.train import TrainConfig
from rmray.data.prepared import load_manifest
from rmray.data.sources import read_records
from rmray.errors import RowError
from rmray.schema import Record

SampledRecord = tuple[str, int, Record]
"""Row id, line in its file, and the record."""


def sample_records(prepared_dir: Path, config: TrainConfig, *, limit: int) -> list[SampledRecord]:
    """At most `limit` prepared records, in an order of their own: a smaller limit gives the first of them.

    Held-out ones where there are some, else training ones. Which ones, and in what order, hashes of their row ids
    decide.
    """
    manifest = load_manifest(prepared_dir)
    held_out = manifest.eval.num_rows > 0
    windows = manifest.eval.windows if held_out else manifest.train.windows
    tables = (pq.read_table(prepared_dir / window.path, columns=["row_id"]) for window in windows)
    row_ids = [row_id for table in tables for row_id in table["row_id"].to_pylist()]
    rank = {row_id: place for place, row_id in enumerate(sorted(row_ids, key=_order)[:limit])}
    found: dict[int, SampledRecord] = {}
    for source in config.data.eval if held_out and config.data.eval else config.data.train:
        for row_id, line, record in read_records(source, objective=config.objective.name, columns=config.data.columns):
            if row_id in rank and not isinstance(record, RowError):
                found[rank[row_id]] = (row_id, line, record)
            if len(found) == len(rank):
                break
    return [found[place] for place in sorted(found)]


def _order(row_id: str) -> str:
    return hashlib.sha256(row_id.encode()).hexdigest()
