"""Write and read evaluation.json. Called by evaluation, which makes it, and by what shows it: reports and cards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmray.errors import DataError

EVALUATION_FORMAT = 1
EVALUATION_NAME, REPORT_NAME, PLOTS_NAME = "evaluation.json", "report.html", "plots"  # side by side in one folder


def save_evaluation(path: Path, evaluation: Mapping[str, Any]) -> None:
    """Write evaluation.json, whole or not at all. Raises ValueError on a number that is NaN or infinite."""
    text = json.dumps(evaluation, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def load_evaluation(path: Path) -> dict[str, Any]:
    """Read evaluation.json. Raises DataError: not there, not JSON, a whole number that no float holds, or of another
    format."""
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"), parse_int=_whole_number)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "the evaluation cannot be read",
            where=str(path),
            why=str(error),
            next_step="give the evaluation.json that `rmray evaluate` writes",
        ) from error
    if not isinstance(evaluation, dict) or evaluation.get("format") != EVALUATION_FORMAT:
        raise DataError(
            f"not an evaluation of format {EVALUATION_FORMAT}",
            where=str(path),
            next_step="make one with `rmray evaluate --output DIR`",
        )
    return evaluation


def _whole_number(text: str) -> int:
    if math.isinf(float(text)):
        raise ValueError(f"it holds a whole number of {len(text.lstrip('-'))} digits")
    return int(text)
