"""Score every row of files with a bundle or a judge: `rmray score`. Streams: a file of any size needs little memory."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from rmray.data.requests import read_requests
from rmray.data.sources import find_files
from rmray.errors import DataError, RowError
from rmray.evaluation.source import RewardSource, ScorerSource
from rmray.models.bundle import load_bundle
from rmray.models.bundle.load import default_device
from rmray.result_json import result_to_json
from rmray.schema import ItemResult, ScoreFailure, ScoreRequest, ScoreResult

SCORES_NAME = "scores.jsonl"
CHUNK_ROWS = 256  # rows scored together, long with long

NumberedRequest = tuple[str, int, ScoreRequest | RowError]


def score_file(
    bundle_dir: str | Path,
    input: str | Sequence[str],
    output: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    max_batch_tokens: int = 16384,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """`score_file_from` the bundle at `bundle_dir`. device: None for a GPU where there is one. Raises BundleError."""

    def open_source() -> RewardSource:
        scorer = load_bundle(bundle_dir, device=device or default_device())
        return ScorerSource(scorer, max_batch_tokens=max_batch_tokens)

    return score_file_from(open_source, input, output, columns=columns)


def score_file_from(
    open_source: Callable[[], RewardSource],
    input: str | Sequence[str],
    output: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score the completions of all rows of `input` (files, folders, saved datasets, Hub ids) into OUTPUT/scores.jsonl.

    One line a row, in the order of the rows: `row_id, line, id, results`, a result being a score with its reward or an
    `error`; a row that cannot be read has an `error` in place of `results`. The file appears when it is whole.
    open_source: called once the paths have been looked at.
    Returns rows, completions and scored counts, `errors` by code, the path, and the model's version and reference.
    Raises ConfigError, DataError and what opening raises, and leaves no file then.
    """
    sources = checked_inputs(input)
    counts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    with new_file(output, SCORES_NAME) as (path, file):
        source = open_source()
        rows = itertools.chain.from_iterable(read_requests(name, columns=columns) for name in sources)
        for line in score_rows(source, rows, counts=counts, errors=errors):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    return {
        "scores": str(path),
        "rows": counts["rows"],
        "bad_rows": counts["bad_rows"],
        "completions": counts["completions"],
        "scored": counts["scored"],
        "errors": dict(sorted(errors.items())),
        "model_version": source.info.model_version,
        "reference": source.info.reference,
    }


def checked_inputs(input: str | Sequence[str]) -> list[str]:
    """The inputs as a list; raises where one is not there: a mistyped name is told before minutes of loading."""
    sources = [input] if isinstance(input, str) else list(input)
    for source in sources:
        find_files(source)
    return sources


@contextmanager
def new_file(output: str | Path, name: str) -> Iterator[tuple[Path, IO[str]]]:
    """OUTPUT/name and a file to write it through, which gets this name when the block ends without an error."""
    directory = Path(output)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("the output is no directory to write to", where=str(output), why=str(error)) from error
    path, unfinished = directory / name, directory / f"{name}.part"
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield path, file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def score_rows(
    source: RewardSource, rows: Iterable[NumberedRequest], *, counts: Counter[str], errors: Counter[str]
) -> Iterator[dict[str, Any]]:
    """One JSON-able object a row, in order. counts, errors: added to; `errors` counts rows and completions by code."""
    for head, answered in ask_rows(source, rows, errors=errors):
        counts["rows"] += 1
        if answered is None:
            counts["bad_rows"] += 1
            yield head
            continue
        _, results = answered
        counts["completions"] += len(results)
        counts["scored"] += sum(isinstance(r, ScoreResult) for r in results)
        yield {**head, "results": [result_to_json(r) for r in results]}


def ask_rows(
    source: RewardSource,
    rows: Iterable[NumberedRequest],
    *,
    errors: Counter[str],
    ask: Callable[[str, ScoreRequest], ScoreRequest] = lambda row_id, request: request,
) -> Iterator[tuple[dict[str, Any], tuple[ScoreRequest, tuple[ItemResult, ...]] | None]]:
    """How each row's line begins, in order, and the row's request with its results. A row that cannot be read has None,
    and an `error` in its line. CHUNK_ROWS are held, and asked about at once. Called by all that score a file's rows.

    ask: what the source is asked of a row, of its id and request. errors: added to, rows and completions by code.
    """
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        asked = [ask(row_id, request) for row_id, _, request in chunk if isinstance(request, ScoreRequest)]
        responses = iter(source.score(asked))
        for row_id, line, request in chunk:
            head: dict[str, Any] = {"row_id": row_id, "line": line}
            if isinstance(request, RowError):
                errors[request.code] += 1
                yield {**head, "error": {"code": request.code, "message": request.what}}, None
                continue
            if request.id is not None:
                head["id"] = request.id
            results = next(responses).results
            errors.update(r.code for r in results if isinstance(r, ScoreFailure))
            yield head, (request, results)
