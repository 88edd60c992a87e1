"""A result as JSON and back: the same keys in files of scores and over HTTP. Pure; used by evaluation, serving, client.

A score, or `error`: never both, and never a number in place of an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rmray.schema import ItemResult, ScoreFailure, ScoreResult

LISTS = ("token_scores", "member_scores")
NUMBERS = ("prob_mean", "prob_min", "prob_product", "disagreement")
DETAILS = (*LISTS, *NUMBERS, "first_error", "step_labels")
"""What some kinds of model tell beside the score; left out where a model does not."""


def result_to_json(result: ItemResult) -> dict[str, Any]:
    """What JSON can write. A figure that is not finite, which JSON has no word for, makes the whole an error."""
    if isinstance(result, ScoreFailure):
        return {"error": {"code": result.code, "message": result.message}}
    details = {name: value for name in DETAILS if (value := getattr(result, name)) is not None}
    if not _is_finite(result.reward, result.quantile, result.raw, details):
        return {"error": {"code": "non_finite", "message": "the score is not finite"}}
    return {
        "reward": result.reward,
        "quantile": result.quantile,
        "raw": result.raw,
        "num_tokens": result.num_tokens,
        "completion_tokens": result.completion_tokens,
        "truncated": result.truncated,
        "model_version": result.model_version,
        "reference": result.reference,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in details.items()},
    }


def result_from_json(entry: Mapping[str, Any]) -> ScoreResult | ScoreFailure:
    """What `result_to_json` wrote. Raises KeyError, TypeError or ValueError where a field is missing or of another
    kind; a figure that is not finite is a ScoreFailure."""
    error = entry.get("error")
    if error is not None:
        return ScoreFailure(code=_text(error["code"]), message=_text(error["message"]))
    details = details_from_json(entry)
    if not _is_finite(entry["reward"], entry["quantile"], entry["raw"], details):
        return ScoreFailure(code="non_finite", message="the score is not finite")
    count = entry.get("completion_tokens")
    return ScoreResult(
        raw=float(entry["raw"]),
        reward=float(entry["reward"]),
        quantile=float(entry["quantile"]),
        model_version=_text(entry["model_version"]),
        reference=_text(entry["reference"]),
        num_tokens=int(entry["num_tokens"]),
        completion_tokens=None if count is None else int(count),
        truncated=bool(entry.get("truncated")),
        **details,
    )


def details_from_json(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Those of DETAILS that are there, as `ScoreResult` takes them. Raises TypeError or ValueError."""
    details: dict[str, Any] = {n: tuple(map(float, entry[n])) for n in LISTS if entry.get(n) is not None}
    details |= {n: float(entry[n]) for n in NUMBERS if entry.get(n) is not None}
    if entry.get("first_error") is not None:
        details["first_error"] = int(entry["first_error"])
    if entry.get("step_labels") is not None:
        details["step_labels"] = tuple(map(int, entry["step_labels"]))
    return details


def _is_finite(reward: float, quantile: float, raw: float, details: Mapping[str, Any]) -> bool:
    figures = [reward, quantile, raw]
    for value in details.values():
        figures += value if isinstance(value, tuple) else [value]
    return all(math.isfinite(x) for x in figures)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
