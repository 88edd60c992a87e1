"""Read one field of a raw row: text or messages, numbers, lists, token ids, tools. Pure; called by `records`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rmray.data.messages import join_parts
from rmray.errors import RowError
from rmray.schema import TokenIds, check_messages

Row = Mapping[str, Any]

WRITTEN_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
"""What text that stands for a truth value says; CSV knows no other."""


def check_text(value: Any) -> None:
    """Refuse what no tokenizer and no Parquet file can hold."""
    if isinstance(value, str):
        if "\0" in value:
            raise RowError("nul_character", "the text holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError("invalid_utf8", "the text is not valid Unicode", why=str(error.reason)) from error
    elif isinstance(value, Mapping):
        for part in value.values():
            check_text(part)
    elif isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        for part in value:
            check_text(part)


def content_of(row: Row, name: str) -> str | tuple[Mapping[str, Any], ...]:
    if name not in row:
        raise RowError("missing_field", f"the column `{name}` is missing")
    if row[name] is None:
        code = "missing_field" if name == "prompt" else "blank_completion"
        raise RowError(code, f"`{name}` is null")
    return as_content(row[name], name)


def optional_content_of(row: Row, name: str) -> str | tuple[Mapping[str, Any], ...] | None:
    return None if row.get(name) is None else as_content(row[name], name)


def as_content(value: Any, name: str) -> str | tuple[Mapping[str, Any], ...]:
    if value is None:
        raise RowError("blank_completion", f"`{name}` is null")
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list | tuple) and all(isinstance(m, Mapping) for m in value):
        return check_messages(join_parts([_without_nulls(m) for m in value], name=name), name=name, starts=False)
    raise RowError("bad_type", f"`{name}` must be text or a list of messages, not {type(value).__name__}")


def _without_nulls(value: Any) -> Any:
    """Columnar files give every message every key, null where it had none; templates ask whether a key is there."""
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(v) for v in value]
    return value


def ids_of(row: Row, name: str) -> TokenIds:
    if row.get(name) is None:
        raise RowError("missing_field", f"the column `{name}` is missing or null")
    if not isinstance(row[name], list | tuple):
        raise RowError("bad_token_ids", f"`{name}` must be a list of token ids")
    return TokenIds(tuple(row[name]))


def list_of(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if value is None:
        raise RowError("missing_field", f"the column `{name}` is missing or null")
    if not isinstance(value, list | tuple):
        raise RowError("bad_type", f"`{name}` must be a list, not {type(value).__name__}")
    return list(value)


def numbers_of(row: Row, name: str) -> tuple[float, ...]:
    return tuple(number_of(x, f"{name}[{k}]") for k, x in enumerate(list_of(row, name)))


def number_of(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError("bad_number", f"`{name}` must be a number, not {value!r:.60}")
    try:
        number = float(value)
    except OverflowError as error:
        raise RowError("bad_number", f"`{name}` is out of range") from error
    if not math.isfinite(number):
        raise RowError("bad_number", f"`{name}` is NaN or infinite")
    return number


def text_of(row: Row, name: str) -> str | None:
    return None if row.get(name) is None else str(row[name])


def tools_of(row: Row) -> tuple[Mapping[str, Any], ...] | None:
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)  # columnar files keep JSON schemas as text
        except ValueError as error:
            raise RowError("bad_tools", "`tools` is text, but no JSON", why=str(error)) from error
    if not tools:
        return None
    if not isinstance(tools, list | tuple) or not all(isinstance(t, Mapping) for t in tools):
        raise RowError("bad_tools", "`tools` must be a list of tool schemas")
    return tuple(_without_nulls(t) for t in tools)
