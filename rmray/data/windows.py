"""Cut staged parts into the windows of a prepared set, whole prompts each, and find duplicate rows on the way.

Called by prepare's tasks; no Ray in here. A part is sorted by prompt key, so that a task reads only its own hash range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rmray.data.keys import split_hashes, window_edges
from rmray.data.prepared import ROW_COLUMNS, Window
from rmray.data.staging import STAGED_COLUMNS
from rmray.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Holdout:
    """Which rows of a part belong to a split: those whose split hash lies in [low, high)."""

    low: int = 0
    high: int = 2**64

    def mask(self, prompt_keys: np.ndarray) -> np.ndarray:
        hashes = split_hashes(prompt_keys)
        above = hashes >= np.uint64(self.low)
        return above if self.high == 2**64 else above & (hashes < np.uint64(self.high))


def part_keys(parts: Sequence[Path]) -> np.ndarray:
    """Prompt keys of all rows, 8 bytes a row."""
    columns = [pq.read_table(p, columns=["prompt_key"])["prompt_key"].to_numpy() for p in parts]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *columns])


def write_windows(
    parts: Sequence[Path], *, directory: Path, split: str, holdout: Holdout, first: int, bounds: Sequence[int]
) -> tuple[list[Window], Counter[str]]:
    """Write windows first, first + 1, ... whose hash ranges lie between `bounds`; empty ones are left out.

    Returns the windows and notes: `duplicate_rows` (beyond the first of their kind) and `contradicting_rows`.
    """
    pieces = [_read_range(part, bounds[0], bounds[-1]) for part in parts]
    table = pa.concat_tables([STAGED_COLUMNS.empty_table(), *pieces])
    table = table.filter(pa.array(holdout.mask(table["prompt_key"].to_numpy())))
    table = table.sort_by([("prompt_key", "ascending"), ("row_id", "ascending")]).combine_chunks()
    edges = window_edges(bounds, table["prompt_key"].to_numpy())
    (directory / split).mkdir(parents=True, exist_ok=True)
    windows = []
    for w, (start, end) in enumerate(pairwise(edges), start=first):
        if end > start:
            rows = table.slice(start, end - start)
            path = f"{split}/window-{w:05d}.parquet"
            pq.write_table(rows.select(ROW_COLUMNS.names).cast(ROW_COLUMNS), directory / path)
            windows.append(Window(path, rows.num_rows, pc.sum(rows["num_tokens"]).as_py()))
    return windows, _repeated(table)


def _read_range(part: Path, low: int, high: int) -> pa.Table:
    """Rows of a sorted part with low <= prompt key < high; row groups outside are not read."""
    file = pq.ParquetFile(part)
    groups = []
    for g in range(file.num_row_groups):
        keys = file.read_row_group(g, columns=["prompt_key"])["prompt_key"].to_numpy()
        if int(keys[0]) < high and int(keys[-1]) >= low:
            groups.append(g)
    table = file.read_row_groups(groups) if groups else STAGED_COLUMNS.empty_table()
    keys = table["prompt_key"].to_numpy()
    start = int(np.searchsorted(keys, np.uint64(low), side="left"))
    end = len(keys) if high >= 2**64 else int(np.searchsorted(keys, np.uint64(high), side="left"))
    return table.slice(start, end - start)


def _repeated(table: pa.Table) -> Counter[str]:
    ids = table["row_id"]
    if pc.count_distinct(ids).as_py() != table.num_rows:
        raise TrainingError("a row was staged twice", why="each input file must be read exactly once")
    kinds = table.group_by(["prompt_key", "pair_key", "order_key"]).aggregate([("row_id", "count")])
    pairs = kinds.group_by(["prompt_key", "pair_key"]).aggregate([("row_id_count", "sum"), ("order_key", "count")])
    against = pairs.filter(pc.greater(pairs["order_key_count"], 1))
    return Counter(
        duplicate_rows=table.num_rows - kinds.num_rows,
        contradicting_rows=pc.sum(against["row_id_count_sum"]).as_py() or 0,
    )
