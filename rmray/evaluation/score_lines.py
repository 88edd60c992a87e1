"""Read one row of a file of scores: what `rmray score` writes, or a plain row. Pure; called by `recorded`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from rmray.errors import RowError
from rmray.result_json import details_from_json
from rmray.schema import ItemResult, ScoreFailure, ScoreResult

Match = Literal["row_id", "line", "place"]
"""What names the data's row: a column of the scores, or their place in the file. An `id` of the data's own names none:
rows are asked for by row id alone."""
Version = tuple[str, str]
"""Model version and reference."""

SCORE_COLUMNS = ("results", "error", "scores", "score_chosen", "score_rejected")


def matching_of(row: Mapping[str, Any]) -> Match:
    """How the rows of a file are matched, by its first one."""
    if row.get("row_id") is not None:
        return "row_id"
    return "line" if row.get("line") is not None else "place"


def key_of(row: Mapping[str, Any], place: int, match: Match) -> str | int:
    """What the row's scores are found by. Raises RowError."""
    if match == "place":
        return place
    value = row.get(match)
    if match == "line":
        if isinstance(value, str) and value.strip().isdecimal():  # a CSV cell
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise RowError("bad_type", f"`line` must be a whole number, not {value!r:.60}")
        return value
    if value is None:
        raise RowError(
            "missing_field", f"the row has no `{match}`", why=f"the first row has one; this: {', '.join(row)}"
        )
    return str(value)


def versions_of(row: Mapping[str, Any]) -> set[Version]:
    """Every version that the row's scores name: one, or none where all failed or nobody said."""
    results = row.get("results")
    scored = [r for r in results if isinstance(r, Mapping)] if isinstance(results, list) else []
    named = [r for r in (scored or [row]) if r.get("model_version") is not None]
    return {(str(r["model_version"]), str(r.get("reference", "none"))) for r in named}


def results_of(row: Mapping[str, Any], version: Version) -> tuple[ItemResult, ...] | ScoreFailure:
    """Scores of the row's completions in order, or why it has none. Raises RowError where its columns are no scores."""
    error = row.get("error")
    if error is not None:
        return _failure(error)
    for column, read in (("results", _result), ("scores", _score)):
        if row.get(column) is not None:
            if not isinstance(row[column], list):
                raise RowError("bad_type", f"`{column}` must be a list, not {type(row[column]).__name__}")
            return tuple(read(entry, version) for entry in row[column])
    pair = (row.get("score_chosen"), row.get("score_rejected"))
    if pair == (None, None):
        return ScoreFailure(code="no_score", message="the row of the file has no scores")
    return tuple(_score(value, version) for value in pair)


def _result(entry: Any, version: Version) -> ItemResult:
    """One of `rmray score`'s results."""
    if not isinstance(entry, Mapping):
        raise RowError("bad_type", "`results` must hold objects", why="plain numbers go into `scores`")
    if entry.get("error") is not None:
        return _failure(entry["error"])
    plain = _score(entry.get("raw"), version)
    if isinstance(plain, ScoreFailure):
        return plain
    reward, quantile = entry.get("reward", plain.raw), entry.get("quantile", plain.quantile)
    for name, value in (("reward", reward), ("quantile", quantile)):
        if fault := _fault(value, name):
            return fault
    try:
        details = details_from_json(entry)
    except (TypeError, ValueError) as error:
        raise RowError("bad_type", "a result has details that are no figures", why=str(error)) from error
    tokens = entry.get("completion_tokens")
    return ScoreResult(
        raw=plain.raw,
        reward=float(reward),
        quantile=float(quantile),
        model_version=plain.model_version,
        reference=plain.reference,
        num_tokens=_count(entry.get("num_tokens", 0)),
        completion_tokens=None if tokens is None else _count(tokens),
        truncated=bool(entry.get("truncated")),
        **details,
    )


def _score(value: Any, version: Version) -> ScoreResult | ScoreFailure:
    """A bare number: without a reference set, so that its reward is the score itself."""
    if value is None:
        return ScoreFailure(code="no_score", message="the file has null in place of a score")
    if fault := _fault(value, "score"):
        return fault
    raw = float(value)
    return ScoreResult(raw=raw, reward=raw, quantile=0.5, model_version=version[0], reference=version[1], num_tokens=0)


def _fault(value: Any, name: str) -> ScoreFailure | None:
    """Why a value is no figure; None where it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ScoreFailure(code="bad_type", message=f"the {name} is no number but {type(value).__name__}")
    try:
        if math.isfinite(value):
            return None
        return ScoreFailure(code="non_finite", message=f"the {name} is {value}")
    except OverflowError:  # a whole number beyond what a float holds
        return ScoreFailure(code="non_finite", message=f"the {name} is out of range")


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RowError("bad_number", f"a number of tokens must be a whole number, not {value!r:.60}")
    return value


def _failure(error: Any) -> ScoreFailure:
    if isinstance(error, Mapping):
        return ScoreFailure(code=str(error.get("code", "failed")), message=str(error.get("message", "")))
    return ScoreFailure(code="failed", message=str(error))
