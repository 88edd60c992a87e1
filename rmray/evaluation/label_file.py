"""Let a judge, or any source of scores, label pairs to train on: `rmray label`. Streams, as `score_file` does."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmray.data.requests import read_requests
from rmray.errors import ConfigError, DataError
from rmray.evaluation.score_file import NumberedRequest, ask_rows, checked_inputs, new_file
from rmray.evaluation.source import RewardSource
from rmray.schema import Content, ItemResult, ScoreRequest, ScoreResult, Steps, TokenIds, plain_text

PAIRS_NAME = "pairs.jsonl"


def label_file(
    open_source: Callable[[], RewardSource],
    input: str | Sequence[str],
    output: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    min_margin: float = 0.0,
) -> dict[str, Any]:
    """Label the completions of all rows of `input` into OUTPUT/pairs.jsonl: prompt, chosen, rejected, margin.

    A row of K completions (or a comparison, whose own order is passed over) gives each of its pairs whose scores
    differ by more than `min_margin`; margin is that difference. Of a pairwise judge's two answers it is the log-odds of
    the verdict, averaged over both orders. The file appears when it is whole. open_source: called once the paths have
    been looked at.
    Returns counts that add up: rows; bad_rows; comparable pairs = pairs + ties + below_margin + unjudged; `errors`, by
    code, of rows and of completions that could not be judged.
    Raises ConfigError, DataError (also where no pair is left to train on) and what opening raises, and leaves no file.
    """
    if not 0 <= min_margin < float("inf"):
        raise ConfigError(f"the least margin is {min_margin}", where="--min-margin", why="a number from 0 on")
    inputs = checked_inputs(input)
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    with new_file(output, PAIRS_NAME) as (path, file):
        source = open_source()
        rows = itertools.chain.from_iterable(read_requests(name, columns=columns) for name in inputs)
        for pair in label_rows(source, rows, counts=counts, errors=errors, min_margin=min_margin):
            file.write(json.dumps(pair, ensure_ascii=False, allow_nan=False) + "\n")
        if not counts["pairs"]:
            raise DataError(
                f"no pair could be labelled in {counts['rows']} rows",
                where=", ".join(inputs),
                why=", ".join(f"{count} x {code}" for code, count in errors.items()) or "every pair is a tie",
                next_step="rows need two or more completions of a prompt; see what `rmray score` says of a few",
            )
    return {
        "labelled": str(path),
        **{name: counts[name] for name in ("rows", "bad_rows", "pairs", "ties", "below_margin", "unjudged")},
        "errors": dict(sorted(errors.items())),
        "model_version": source.info.model_version,
    }


def label_rows(
    source: RewardSource,
    rows: Iterable[NumberedRequest],
    *,
    counts: Counter[str],
    errors: Counter[str],
    min_margin: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """One JSON-able object a labelled pair, row after row. counts, errors: added to, as `label_file` returns them."""
    for _, answered in ask_rows(source, rows, errors=errors):
        counts["rows"] += 1
        if answered is None:
            counts["bad_rows"] += 1
            continue
        request, results = answered
        for i, j in itertools.combinations(range(len(results)), 2):
            margin = _margin(results[i], results[j])
            verdict = _verdict(margin, min_margin)
            counts[verdict] += 1
            if margin is not None and verdict == "pairs":
                better, worse = (i, j) if margin > 0 else (j, i)
                yield _pair(request, better, worse, abs(margin), source.info.model_version)


def _margin(one: ItemResult, other: ItemResult) -> float | None:
    """How much better the one is, or None where either has no score."""
    return one.raw - other.raw if isinstance(one, ScoreResult) and isinstance(other, ScoreResult) else None


def _verdict(margin: float | None, min_margin: float) -> str:
    if margin is None:
        return "unjudged"
    if margin == 0:
        return "ties"
    return "pairs" if abs(margin) > min_margin else "below_margin"


def _pair(request: ScoreRequest, better: int, worse: int, margin: float, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {} if request.id is None else {"id": request.id}
    row |= {
        "prompt": _json(request.prompt),
        "chosen": _json(request.completions[better]),
        "rejected": _json(request.completions[worse]),
        "margin": margin,
        "judge": version,
    }
    return row if request.tools is None else {**row, "tools": [dict(tool) for tool in request.tools]}


def _json(content: Content) -> Any:
    if isinstance(content, TokenIds):  # a judge reads none of them, so that no pair has any
        raise DataError("token ids cannot be labelled", next_step="give the texts")
    return plain_text(content) if isinstance(content, str | Steps) else [dict(message) for message in content]
