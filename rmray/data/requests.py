"""Turn rows of a file into score requests. Called by `rmray score` and by the bundle for its reference set.

A row has a prompt with one `completion`, a list of `completions`, the `steps` of one completion, or the `chosen` and
`rejected` of a comparison. For process models each of `completions` may be a list of steps; with `labels`
beside them they are the steps of one, as TRL has them.
Optional: `finished` (a boolean, or one for each completion), `tokenizer_hash` (with token ids), `tools`, `id`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rmray.data.sources import check_columns, find_files, parse_row, read_raw_rows, record_from_row
from rmray.data.sources.fields import WRITTEN_BOOLEANS
from rmray.errors import RowError
from rmray.schema import Comparison, Content, OutcomeExample, ScoreRequest, Steps, is_blank

REQUEST_COLUMNS = ("finished", "tokenizer_hash")  # beside those of comparisons


def read_requests(
    source: str, *, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int, ScoreRequest | RowError]]:
    """(row_id, line, request or what is wrong with the row) of every row, streaming.

    source: as `find_files`. columns: our name -> the file's. Raises ConfigError, DataError.
    """
    columns = columns or {}
    check_columns({ours: theirs for ours, theirs in columns.items() if ours not in REQUEST_COLUMNS})
    for file in find_files(source):
        for line, payload in read_raw_rows(file, columns):
            result: ScoreRequest | RowError
            try:
                if isinstance(payload, RowError):
                    raise payload
                result = request_from_row(parse_row(payload), columns=columns)
            except RowError as error:
                error.where = error.where or f"{file.path}, line {line}"
                result = error
            yield file.row_id(line), line, result


def request_from_row(row: Mapping[str, Any], *, columns: Mapping[str, str]) -> ScoreRequest:
    """The request that a row holds. Raises RowError, with the codes of `record_from_row`.

    A blank completion is left to the scorer, which fails it alone; anything else that is wrong fails the row.
    """
    named = {**row, **{ours: row[theirs] for ours, theirs in columns.items() if theirs in row}}
    tools = _tools(named)
    prompt: Content
    completions: tuple[Content, ...]
    if any(named.get(name) is not None for name in ("chosen", "rejected", "chosen_ids", "rejected_ids")):
        # Before `completions`, as evaluation reads a row that has both: its scores are then those of the same texts.
        comparison = record_from_row(row, objective="bradley_terry", columns=columns)
        assert isinstance(comparison, Comparison)
        prompt, completions = comparison.prompt, comparison.completions
    elif given := [name for name in ("completions", "completion", "steps") if named.get(name) is not None]:
        in_steps = given[0] == "completions" and isinstance(named.get("labels"), list)  # TRL's process rows
        answers = named["completions"] if given[0] == "completions" and not in_steps else [named[given[0]]]
        if not isinstance(answers, list) or not answers:
            raise RowError("bad_type", "`completions` must be a list of texts or of message lists, and not empty")
        if named.get("prompt") is None:
            raise RowError("missing_field", "the column `prompt` is missing or null", why="it may be an empty text")
        prompt = _checked(named["prompt"], "prompt").prompt
        completions = tuple(_answer(a) for a in answers)
    else:
        raise RowError(
            "missing_field",
            "there is nothing to score",
            why="a row needs `completion`, `completions`, `steps`, or `chosen` and `rejected`; it has: "
            + ", ".join(map(str, row)),
        )
    return ScoreRequest(
        prompt=prompt,
        completions=completions,
        finished=_finished(named.get("finished"), len(completions)),
        tokenizer_hash=None if named.get("tokenizer_hash") is None else str(named["tokenizer_hash"]),
        tools=tools,
        id=None if named.get("id") is None else str(named["id"]),
    )


def _checked(value: Any, name: str) -> OutcomeExample:
    """A prompt or a completion through the one check that all rows pass; the other one is filled in."""
    row = {"prompt": "", "completion": "-", "label": True, name: value}
    example = record_from_row(row, objective="outcome", columns={})
    assert isinstance(example, OutcomeExample)
    return example


def _answer(value: Any) -> Content:
    if isinstance(value, list) and value and isinstance(value[0], str):
        return Steps(tuple(value))
    return value if isinstance(value, str) and is_blank(value) else _checked(value, "completion").completion


def _finished(value: Any, count: int) -> tuple[bool, ...]:
    """Empty where the row does not say: then every completion is finished."""
    if value is None:
        return ()
    flags = value if isinstance(value, list) else [value] * count
    flags = [WRITTEN_BOOLEANS.get(f.strip().lower(), f) if isinstance(f, str) else f for f in flags]
    if not all(isinstance(f, bool) for f in flags):
        raise RowError("bad_type", f"`finished` must be true or false, or one for each completion, not {value!r:.60}")
    return tuple(flags)


def _tools(row: Mapping[str, Any]) -> Any:
    if row.get("tools") is None:
        return None
    tied = {"prompt": "", "completions": ["-", "-"], "ranks": [0, 0], "tools": row["tools"]}
    comparison = record_from_row(tied, objective="bradley_terry", columns={})
    assert isinstance(comparison, Comparison)
    return comparison.tools
