"""Validate, render and tokenise raw rows into one staged part: a sorted table, and what became of the other rows.

Called by prepare's actors; no Ray in here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rmray.data.keys import pair_keys, prompt_key, stored_order
from rmray.data.prepared import COMPARISON_COLUMNS
from rmray.data.render import RenderedPath, Renderer, group_of
from rmray.data.sources import parse_row, record_from_row
from rmray.errors import RowError
from rmray.schema import Comparison, num_chars

STAGED_COLUMNS = (
    COMPARISON_COLUMNS.append(pa.field("pair_key", pa.uint64(), nullable=False))
    .append(pa.field("order_key", pa.uint64(), nullable=False))
    .append(pa.field("num_tokens", pa.int64(), nullable=False))
)
DROPPED = ("over_length", "all_tied")  # codes of rows that are good, but not for training: dropped, not quarantined


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


def stage(lines: Iterable[RawLine], renderer: Renderer, *, objective: str, columns: Mapping[str, str]) -> Part:
    """Every line becomes a row, a quarantined one or a dropped one."""
    part = Part()
    for line in lines:
        try:
            if line.code is not None:
                raise RowError(line.code, line.reason or "")
            record = record_from_row(parse_row(line.payload), objective=objective, columns=columns)
            assert isinstance(record, Comparison)  # prepare refuses objectives of other records
            part.rows.append(_staged_row(line, record, renderer, part.notes))
        except RowError as error:
            if error.code in DROPPED:
                part.dropped[error.code] += 1
            else:
                part.quarantined.append(
                    {"file": line.file, "line": line.line, "code": error.code, "reason": _reason(error)}
                )
    return part


def _reason(error: RowError) -> str:
    return error.what + (f" ({error.why})" if error.why else "")


def _staged_row(line: RawLine, record: Comparison, renderer: Renderer, notes: Counter[str]) -> dict[str, Any]:
    if len(set(record.ranks)) == 1:
        raise RowError("all_tied", "no completion is better than another")
    order = stored_order(line.row_id, len(record.completions))
    completions = [record.completions[k] for k in order]
    ranks = [record.ranks[k] for k in order]
    paths = renderer.render_paths(record.prompt, completions, tools=record.tools)
    group = group_of(paths)
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
        "ranks": ranks,
        "ratings": None if record.ratings is None else [record.ratings[k] for k in order],
        "margin": record.margin,
        "pair_key": pair_key,
        "order_key": order_key,
        "num_tokens": group.num_tokens,
    }


def _refuse_same_ids(paths: list[Any], ranks: list[int]) -> None:
    """Texts that differ may still render alike; a model cannot prefer one of them."""
    first_rank: dict[tuple[int, ...], int] = {}
    for path, rank in zip(paths, ranks, strict=True):
        if first_rank.setdefault(tuple(path.ids), rank) != rank:
            raise RowError("identical_completions", "two completions of other rank render to the same token ids")
