"""A prepared set on disk: Parquet windows of tokenised rows and a manifest. Written by `prepare`, read by all.

DIR/manifest.json                      written last: a set without it is incomplete and is made again
DIR/train/window-00000.parquet ...     one window a file, whole prompts, laid out by a hash without any seed
DIR/eval/window-00000.parquet ...
DIR/quarantine.jsonl                   one object a bad row: file, line, code, reason
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rmray.data.group import TokenGroup
from rmray.errors import DataError

PREPARED_FORMAT = 2
WINDOW_ROWS = 4096

ROW_COLUMNS = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),  # first 16 hex of the file's sha256, ":", line from 1
        pa.field("prompt_key", pa.uint64(), nullable=False),  # hash of the prompt: one prompt's rows share a step
        pa.field("source", pa.string()),
        pa.field("prefix", pa.list_(pa.int32()), nullable=False),
        pa.field("suffixes", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("prompt_lens", pa.list_(pa.int32()), nullable=False),
        pa.field("num_chars", pa.list_(pa.int32()), nullable=False),  # of each completion's text
        pa.field("ranks", pa.list_(pa.int32()), nullable=False),  # of a comparison, 0 is best; else empty
        pa.field("ratings", pa.list_(pa.float64())),
        pa.field("margin", pa.float64()),
        pa.field("labels", pa.list_(pa.int8())),  # of an outcome 0 or 1, of steps -1, 0 and 1; else null
        pa.field("step_ends", pa.list_(pa.int32())),  # of a solution in steps: places in its path; else null
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a prepared set: a comparison, with ranks, or a lone completion with labels.

    labels: one of an outcome (0 wrong, 1 right), one a step of a process (-1 wrong, 0 neutral, 1 right).
    """

    row_id: str
    prompt_key: int
    source: str | None
    group: TokenGroup
    num_chars: tuple[int, ...]
    ranks: tuple[int, ...]
    ratings: tuple[float, ...] | None
    margin: float | None
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """One Parquet file of whole prompts. path is relative to the set's directory."""

    path: str
    num_rows: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Split:
    """The windows of one split, in layout order."""

    windows: tuple[Window, ...]

    @property
    def num_rows(self) -> int:
        return sum(w.num_rows for w in self.windows)

    @property
    def num_tokens(self) -> int:
        return sum(w.num_tokens for w in self.windows)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a prepared set holds and came from.

    key: content hash over inputs, tokenizer, rules and their versions. rows_in = train + eval + quarantined + dropped
    rows. render_rules: as the bundle records them. quarantined, dropped: rows by code. notes: counts of what a reader
    should know (`duplicate_rows`, `overlapping_prompts`, ...), and `prompts` and `max_prompt_rows`, the most rows that
    one prompt has.
    """

    format: int
    key: str
    inputs: tuple[dict[str, Any], ...]
    tokenizer_hash: str
    render_rules: dict[str, Any]
    rows_in: int
    quarantined: dict[str, int]
    dropped: dict[str, int]
    notes: dict[str, int]
    train: Split
    eval: Split

    def ledger(self) -> dict[str, int]:
        """The sum: rows_in = train + eval + quarantined + dropped, in rows."""
        return {
            "rows_in": self.rows_in,
            "train": self.train.num_rows,
            "eval": self.eval.num_rows,
            "quarantined": sum(self.quarantined.values()),
            "dropped": sum(self.dropped.values()),
        }

    def save(self, directory: Path) -> None:
        """Write manifest.json; the rename makes it appear whole or not at all."""
        temporary = directory / "manifest.json.tmp"
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.rename(directory / "manifest.json")


def load_manifest(directory: Path) -> Manifest:
    """Read DIR/manifest.json. Raises DataError where the set is incomplete or of another format."""
    path = directory / "manifest.json"
    if not path.exists():
        raise DataError("not a complete prepared set", where=str(directory), next_step="run `rmray prepare` again")
    raw = json.loads(path.read_text())
    if raw.get("format") != PREPARED_FORMAT:
        raise DataError(
            f"prepared set has format {raw.get('format')}, this rmray reads {PREPARED_FORMAT}",
            where=str(path),
            next_step="run `rmray prepare` again",
        )
    splits = {s: Split(tuple(Window(**w) for w in raw.pop(s)["windows"])) for s in ("train", "eval")}
    return Manifest(**{**raw, "inputs": tuple(raw["inputs"]), **splits})


def read_window(directory: Path, window: Window) -> list[Row]:
    """All rows of one window, in layout order."""
    return rows_from_table(pq.read_table(directory / window.path, schema=ROW_COLUMNS))


def rows_from_table(table: pa.Table) -> list[Row]:
    """Rows of a table with ROW_COLUMNS."""
    return [
        Row(
            row_id=r["row_id"],
            prompt_key=r["prompt_key"],
            source=r["source"],
            group=TokenGroup(
                np.asarray(r["prefix"], dtype=np.int32),
                tuple(np.asarray(s, dtype=np.int32) for s in r["suffixes"]),
                tuple(r["prompt_lens"]),
                (tuple(r["step_ends"]),) if r["step_ends"] else (),
            ),
            num_chars=tuple(r["num_chars"]),
            ranks=tuple(r["ranks"]),
            ratings=None if r["ratings"] is None else tuple(r["ratings"]),
            margin=r["margin"],
            labels=tuple(r["labels"] or ()),
        )
        for r in table.to_pylist()
    ]


def table_of_rows(rows: Iterable[Row]) -> pa.Table:
    """The table with ROW_COLUMNS of which `rows_from_table` makes these rows."""
    return pa.Table.from_pylist(
        [
            {
                "row_id": row.row_id,
                "prompt_key": row.prompt_key,
                "source": row.source,
                "prefix": row.group.prefix,
                "suffixes": list(row.group.suffixes),
                "prompt_lens": list(row.group.prompt_lens),
                "num_chars": list(row.num_chars),
                "ranks": list(row.ranks),
                "ratings": row.ratings,
                "margin": row.margin,
                "labels": list(row.labels) or None,
                "step_ends": list(row.group.step_ends[0]) if row.group.step_ends else None,
            }
            for row in rows
        ],
        schema=ROW_COLUMNS,
    )
