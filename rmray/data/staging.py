"""Read raw rows; validate, render and tokenise them into staged parts: sorted tables, and what became of other rows.

Called by prepare's reader tasks and actors; no Ray in here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmray.data.keys import pair_keys, prompt_key, stored_order
from rmray.data.pairs import MarginRule, check_margins
from rmray.data.prepared import ROW_COLUMNS
from rmray.data.render import RenderedPath, Renderer, group_of
from rmray.data.sources import InputFile, parse_row, read_raw_rows, record_from_row
from rmray.errors import RowError
from rmray.schema import Comparison, Content, OutcomeExample, Record, num_chars

STAGED_COLUMNS = (
    ROW_COLUMNS.append(pa.field("pair_key", pa.uint64(), nullable=False))
    .append(pa.field("order_key", pa.uint64(), nullable=False))
    .append(pa.field("num_tokens", pa.int64(), nullable=False))
)
PART_ROW_GROUP = 512  # rows: what a window task reads beyond its range, at most, from each end of a part
DROPPED = ("over_length", "all_tied")  # codes of rows that are good, but not for training: dropped, not quarantined


READ_ROWS = 256  # rows that a reader hands on at once
RAW_COLUMNS = pa.schema(
    [
        ("split", pa.string()),
        ("file", pa.string()),
        ("row_id", pa.string()),
        ("line", pa.int64()),  # 0 in the last row of a file, whose payload is the number of rows that were read
        ("payload", pa.binary()),
        ("code", pa.string()),
        ("reason", pa.string()),
    ]
)


def raw_tables(file: InputFile, split: str, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """All rows of one input file with RAW_COLUMNS, and a last one with their number."""
    rows: list[dict[str, Any]] = []
    num_rows = 0
    for line, payload in read_raw_rows(file, columns):
        num_rows += 1
        row = {"split": split, "file": file.path, "row_id": file.row_id(line), "line": line}
        if isinstance(payload, RowError):
            rows.append({**row, "code": payload.code, "reason": reason_of(payload)})
        else:
            rows.append({**row, "payload": payload})
        if len(rows) == READ_ROWS:
            yield pa.Table.from_pylist(rows, schema=RAW_COLUMNS)
            rows = []
    end = {"split": split, "file": file.path, "row_id": file.row_id(0), "line": 0, "payload": str(num_rows).encode()}
    yield pa.Table.from_pylist([*rows, end], schema=RAW_COLUMNS)


def stage_batch(
    batch: pa.Table,
    renderer: Renderer,
    *,
    objective: str,
    columns: Mapping[str, str],
    directory: Path,
    margin: MarginRule = "none",
) -> dict[str, Any]:
    """Write the batch's good rows as parts, one a split; return a summary that JSON can write.

    parts: [split, path]. rows_read: [split, file, rows] of each file that ended here. quarantined: entries. dropped,
    notes: counts.
    """
    lines: dict[str, list[RawLine]] = {}
    summary: dict[str, Any] = {"parts": [], "rows_read": [], "quarantined": []}
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for row in batch.to_pylist():
        split = row.pop("split")
        if row["line"]:
            lines.setdefault(split, []).append(RawLine(**row))
        else:
            summary["rows_read"].append((split, row["file"], int(row["payload"])))
    for split, of_split in lines.items():
        part = stage(of_split, renderer, objective=objective, columns=columns, margin=margin)
        if part.rows:
            # The same rows make the same name, so that a retried task writes over what it wrote.
            path = directory / f"{split}-{of_split[0].row_id.replace(':', '-')}-{len(of_split)}.parquet"
            write_part(part.table(), path)
            summary["parts"].append((split, str(path)))
        summary["quarantined"] += part.quarantined
        dropped.update(part.dropped)
        notes.update(part.notes)
    return {**summary, "dropped": dropped, "notes": notes}


@dataclass(frozen=True, slots=True)
class RawLine:
    """A row as a reader gives it. payload: JSON bytes; code and reason where the reader could not read it."""

    file: str
    row_id: str
    line: int
    payload: bytes
    code: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class Part:
    """What a batch of raw lines became. rows: with STAGED_COLUMNS, unsorted. quarantined: as quarantine.jsonl has them.

    dropped, notes: counts by code.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def table(self) -> pa.Table:
        """The rows in layout order."""
        return pa.Table.from_pylist(self.rows, schema=STAGED_COLUMNS).sort_by(
            [("prompt_key", "ascending"), ("row_id", "ascending")]
        )


def write_part(table: pa.Table, path: Path) -> None:
    """Write a sorted part; a part written twice (a retried task) ends the same."""
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary, row_group_size=PART_ROW_GROUP)
    temporary.rename(path)


def stage(
    lines: Iterable[RawLine],
    renderer: Renderer,
    *,
    objective: str,
    columns: Mapping[str, str],
    margin: MarginRule = "none",
) -> Part:
    """Every line becomes a row, a quarantined one or a dropped one. margin: what rows must bring, see `pairs`."""
    part = Part()
    for line in lines:
        try:
            if line.code is not None:
                raise RowError(line.code, line.reason or "")
            record = record_from_row(parse_row(line.payload), objective=objective, columns=columns)
            part.rows.append(_staged_row(line, record, renderer, margin, part.notes))
        except RowError as error:
            if error.code in DROPPED:
                part.dropped[error.code] += 1
            else:
                part.quarantined.append(
                    {"file": line.file, "line": line.line, "code": error.code, "reason": reason_of(error)}
                )
    return part


def reason_of(error: RowError) -> str:
    """One line for quarantine.jsonl."""
    return error.what + (f" ({error.why})" if error.why else "")


def _staged_row(
    line: RawLine, record: Record, renderer: Renderer, margin: MarginRule, notes: Counter[str]
) -> dict[str, Any]:
    if isinstance(record, Comparison):
        return _comparison_row(line, record, renderer, margin, notes)
    if isinstance(record, OutcomeExample):
        return _row(line, record, renderer, notes, [record.completion], labels=(int(record.label),), tools=record.tools)
    if any(renderer.rules.step_separator in step.strip() for step in record.steps.texts):  # type: ignore[operator]
        notes["rows_with_separators_in_steps"] += 1
    return _row(line, record, renderer, notes, [record.steps], labels=record.labels, tools=record.tools)


def _comparison_row(
    line: RawLine, record: Comparison, renderer: Renderer, margin: MarginRule, notes: Counter[str]
) -> dict[str, Any]:
    if len(set(record.ranks)) == 1:
        raise RowError("all_tied", "no completion is better than another")
    check_margins(record, margin)
    order = stored_order(line.row_id, len(record.completions))
    ranks = [record.ranks[k] for k in order]
    row = _row(
        line,
        record,
        renderer,
        notes,
        [record.completions[k] for k in order],
        ranks=ranks,
        ratings=None if record.ratings is None else [record.ratings[k] for k in order],
        margin=record.margin,
        tools=record.tools,
    )
    notes["rows_with_ties"] += len(set(ranks)) < len(ranks)
    return row


def _row(
    line: RawLine,
    record: Record,
    renderer: Renderer,
    notes: Counter[str],
    completions: Sequence[Content],
    *,
    ranks: Sequence[int] = (),
    ratings: Sequence[float] | None = None,
    margin: float | None = None,
    labels: Sequence[int] = (),
    tools: Any = None,
) -> dict[str, Any]:
    """A row with STAGED_COLUMNS. completions, ranks and ratings: in the order in which they are stored."""
    paths = renderer.render_paths(record.prompt, completions, tools=tools)
    group = group_of(paths)
    if ranks:
        _refuse_same_ids(paths, ranks)
    rendered = [p for p in paths if isinstance(p, RenderedPath)]
    notes["rows_with_escaped_special_tokens"] += any(p.num_escaped for p in rendered)
    notes["truncated_rows"] += any(p.truncated for p in rendered)
    pair_key, order_key = pair_keys(record)
    return {
        "row_id": line.row_id,
        "prompt_key": prompt_key(record),
        "source": record.source,
        "prefix": group.prefix,
        "suffixes": list(group.suffixes),
        "prompt_lens": list(group.prompt_lens),
        "num_chars": [num_chars(c) for c in completions],
        "ranks": list(ranks),
        "ratings": ratings,
        "margin": margin,
        "labels": list(labels) or None,
        "step_ends": list(group.step_ends[0]) if group.step_ends else None,
        "pair_key": pair_key,
        "order_key": order_key,
        "num_tokens": group.num_tokens,
    }


def _refuse_same_ids(paths: Sequence[Any], ranks: Sequence[int]) -> None:
    """Texts that differ may still render alike; a model cannot prefer one of them."""
    first_rank: dict[tuple[int, ...], int] = {}
    for path, rank in zip(paths, ranks, strict=True):
        if first_rank.setdefault(tuple(path.ids), rank) != rank:
            raise RowError("identical_completions", "two completions of other rank render to the same token ids")
