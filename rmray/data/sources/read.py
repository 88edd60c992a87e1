"""Read raw rows, each with its line, as JSON bytes; and, without Ray, whole records.

Called by prepare's readers and actors (`read_raw_rows`, `parse_row`), by evaluation and scoring (`read_records`).
A row that cannot be read is a RowError in its place; a file that cannot be read is a DataError.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmray.data.sources import hub
from rmray.data.sources.fields import WRITTEN_BOOLEANS
from rmray.data.sources.files import InputFile, find_files, open_bytes, open_plain
from rmray.data.sources.records import KINDS, check_columns, record_from_row
from rmray.errors import ConfigError, DataError, RowError
from rmray.schema import Record

RawRow = tuple[int, bytes | RowError]
"""Line or row number, from 1, and the row as one JSON text."""

# What a CSV cell holds besides text, by our column's name.
_CSV_JSON = ("completions", "scores", "ranks", "steps", "labels", "tools", "prompt_ids", "chosen_ids", "rejected_ids")
_CSV_JSON_OR_TEXT = ("prompt", "chosen", "rejected", "completion")  # messages, where the cell is a list of them
_CSV_NUMBERS = ("margin", "score_chosen", "score_rejected")


def check_source(objective: str, columns: Mapping[str, str]) -> None:
    """Raise ConfigError for an unknown objective or a bad column mapping, before anything is read."""
    if objective not in KINDS:
        raise ConfigError(f"unknown objective `{objective}`", why=f"known: {', '.join(KINDS)}")
    check_columns(columns)


def read_records(
    source: str, *, objective: str, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int, Record | RowError]]:
    """(row_id, line, record or what is wrong with it) of every row, streaming. Raises ConfigError, DataError."""
    columns = columns or {}
    check_source(objective, columns)
    for file in find_files(source):
        for line, payload in read_raw_rows(file, columns):
            result: Record | RowError
            try:
                if isinstance(payload, RowError):
                    raise payload
                result = record_from_row(parse_row(payload), objective=objective, columns=columns)
            except RowError as error:
                error.where = error.where or f"{file.path}, line {line}"
                result = error
            yield file.row_id(line), line, result


def parse_row(payload: bytes) -> dict[str, Any]:
    """One row from JSON bytes. Raises RowError: invalid_utf8, nul_character, broken_json, not_an_object."""
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError("invalid_utf8", "the line is not UTF-8", why=str(error)) from error
    if "\0" in text:
        raise RowError("nul_character", "the line holds a NUL character")
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError("broken_json", "the line is not JSON", why=str(error)) from error
    if not isinstance(row, dict):
        raise RowError("not_an_object", f"the row must be a JSON object, not {type(row).__name__}")
    return row


def read_raw_rows(file: InputFile, columns: Mapping[str, str] | None = None) -> Iterator[RawRow]:
    """All rows of a file. columns: the mapping, which tells CSV's cells what they hold.

    Raises DataError where the file is damaged, cut off or without a row.
    """
    num_rows = 0
    try:
        for raw in _READERS[file.format](file, columns or {}):
            num_rows += 1
            yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException, OSError) as error:
        raise DataError(
            f"the file is damaged or cut off after {num_rows} rows",
            where=file.path,
            why=f"{type(error).__name__}: {error}",
            next_step="copy or make it again",
        ) from error
    if not num_rows:
        raise DataError("the file holds no row", where=file.path, next_step="make it again, or leave it out")


def _read_jsonl(file: InputFile, columns: Mapping[str, str]) -> Iterator[RawRow]:
    with open_plain(file.path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if not line.endswith(b"\n") and _is_cut_off(line):
                raise DataError(
                    f"the file is cut off in line {number}",
                    where=file.path,
                    why=f"its last line ends in the middle of an object: ...{line[-40:]!r}",
                    next_step="copy or make it again",
                )
            yield number, line.strip(b" \t\r\n")


_JSON_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_CUT_TAIL = re.compile(r"\.|[eE][-+]?|u[0-9a-fA-F]{0,4}")  # of a number, of an escape


def _is_cut_off(line: bytes) -> bool:
    """True where more text could have made the line whole: a last line that is broken in itself is a bad row."""
    try:
        json.loads(line.decode("utf-8-sig", errors="ignore"))
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :].rstrip()
        return (
            not rest
            or error.msg.startswith("Unterminated string")
            or (error.msg.startswith("Expecting value") and any(word.startswith(rest) for word in _JSON_WORDS))
            or bool(_CUT_TAIL.fullmatch(rest))
        )
    except (ValueError, RecursionError):
        return False
    return False


def _read_json(file: InputFile, columns: Mapping[str, str]) -> Iterator[RawRow]:
    with open_plain(file.path) as stream:
        data = stream.read()
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8", where=file.path, why=str(error)) from error
    except (ValueError, RecursionError) as error:
        if data.lstrip().startswith(b"{") and str(error).startswith("Extra data"):  # JSON Lines under another name
            yield from _read_jsonl(file, columns)
            return
        raise DataError(
            "the file is not JSON, or cut off", where=file.path, why=str(error), next_step="copy or make it again"
        ) from error
    yield from ((number, _dump(row)) for number, row in enumerate(_rows_of(content, file.path), start=1))


def _rows_of(content: Any, path: str) -> list[Any]:
    """The list of rows: the whole file, or the only list of objects in an object; an object alone is one row."""
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        lists = [v for v in content.values() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
        columns_inside = any(name in content for name in ("chosen", "completion", "completions", "steps"))
        return lists[0] if len(lists) == 1 and not columns_inside else [content]
    raise DataError("the file must hold a list of rows", where=path, why=f"it holds {type(content).__name__}")


def _read_parquet(file: InputFile, columns: Mapping[str, str]) -> Iterator[RawRow]:
    with open_bytes(file.path) as stream:
        number = 0
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=1024):
            for row in _batch_rows(batch):
                number += 1
                yield number, row


def _batch_rows(batch: pa.RecordBatch) -> Iterator[bytes | RowError]:
    try:
        yield from [_dump(row) for row in batch.to_pylist()]
    except UnicodeDecodeError:  # find the bad ones
        for i in range(batch.num_rows):
            try:
                yield _dump(batch.slice(i, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                yield RowError("invalid_utf8", "a text of the row is not UTF-8", why=str(error))


def _read_csv(file: InputFile, columns: Mapping[str, str]) -> Iterator[RawRow]:
    csv.field_size_limit(sys.maxsize)  # answers may be longer than the module's 128 KiB
    ours = {theirs: name for name, theirs in columns.items()}
    with open_plain(file.path) as stream:
        # Bad bytes become lone surrogates, which the row's own check finds.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.DictReader(text, strict=True)
        try:
            _ = reader.fieldnames  # reads the header
        except csv.Error as error:
            raise DataError(
                "the header is not CSV", where=file.path, why=str(error), next_step="mend the first line"
            ) from error
        while True:
            line = reader.line_num + 1
            try:
                yield line, _dump(_csv_row(next(reader), ours))
            except StopIteration:
                return
            except RowError as error:
                yield line, error
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise DataError(
                        f"the file is cut off in line {line}", where=file.path, why="a quoted cell does not end"
                    ) from error
                yield line, RowError("broken_csv", "the row is not CSV", why=str(error))


def _csv_row(row: dict[Any, Any], ours: Mapping[str, str]) -> dict[str, Any]:
    if None in row:
        raise RowError("broken_csv", "the row has more cells than the header has columns")
    return {name: _csv_cell(ours.get(name, name), cell) for name, cell in row.items()}


def _csv_cell(name: str, cell: str | None) -> Any:
    """CSV knows text alone: what a cell holds follows from its column."""
    if cell is None:
        return None
    if name in _CSV_JSON_OR_TEXT:
        return _messages_or_text(cell)
    if not cell.strip():
        return None
    try:
        if name in _CSV_JSON:
            return json.loads(cell)
        if name in _CSV_NUMBERS:
            return float(cell)
    except (ValueError, RecursionError) as error:
        raise RowError("broken_csv", f"the cell `{name}` cannot be read", why=str(error)) from error
    return WRITTEN_BOOLEANS.get(cell.strip().lower(), cell) if name == "label" else cell


def _messages_or_text(cell: str) -> Any:
    if not cell.lstrip().startswith("["):
        return cell
    try:
        messages = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    is_chat = isinstance(messages, list) and messages and all(isinstance(m, dict) and "role" in m for m in messages)
    return messages if is_chat else cell


def _read_dataset(file: InputFile, columns: Mapping[str, str]) -> Iterator[RawRow]:
    for number, row in enumerate(hub.read_dataset(file.path), start=1):
        yield number, _dump(row)


def _dump(row: Any) -> bytes:
    return json.dumps(row, default=_plain).encode()


def _plain(value: Any) -> Any:
    """Types that columnar files have and JSON has not: dates, decimals, bytes. They occur beside what we read."""
    return value.item() if hasattr(value, "item") else str(value)


_READERS: dict[str, Callable[[InputFile, Mapping[str, str]], Iterator[RawRow]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
    "csv": _read_csv,
    "dataset": _read_dataset,
}
