"""The same rows as files of every kind, and reading them: what the suites of reading share."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmray.data.sources import read_records
from rmray.errors import RowError
from rmray.schema import Comparison, Record

ROWS = [{"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "margin": i / 2} for i in range(5)]
EXPECTED = [
    Comparison(prompt=f"p{i}", completions=(f"good {i}", f"bad {i}"), ranks=(0, 1), margin=i / 2) for i in range(5)
]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def csv_text(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=2)
    return out.getvalue()


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.jsonl": jsonl,
    "rows.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "gzipped-by-surprise.jsonl": lambda rows: gzip.compress(jsonl(rows)),
    "rows.ndjson": jsonl,
    "rows.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "rows.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "lines-under-another-name.json": jsonl,
    "inside.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "rows.csv": csv_text,
    "rows.csv.gz": lambda rows: gzip.compress(csv_text(rows)),
    "rows.parquet": parquet,
    "with-bom.jsonl": lambda rows: b"\xef\xbb\xbf" + jsonl(rows),
    "windows.jsonl": lambda rows: jsonl(rows).replace(b"\n", b"\r\n"),
    "no-end-of-line.jsonl": lambda rows: jsonl(rows).rstrip(),
}


def read(path: Path | str, objective: str = "bradley_terry", **columns: str) -> list[Record | RowError]:
    return [r for _, _, r in read_records(str(path), objective=objective, columns=columns)]


def codes(path: Path) -> list[str]:
    return [r.code if isinstance(r, RowError) else "good" for r in read(path)]
