"""Turn a raw row into a record. Which columns are read follows from the objective, never from a guess.

Called by `read_records` and by prepare's actors. Tables: KINDS (objective -> kind of record) and SHAPES (kind -> the
column sets that make one, tried in order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from rmray.data.sources.common_prompt import split_chats, split_ids, split_texts, strip_prompt
from rmray.data.sources.fields import (
    Row,
    as_content,
    check_text,
    content_of,
    ids_of,
    list_of,
    number_of,
    numbers_of,
    optional_content_of,
    text_of,
    tools_of,
)
from rmray.errors import ConfigError, RowError
from rmray.schema import Comparison, Content, OutcomeExample, ProcessExample, Record, Steps, check_messages

COLUMNS = (
    "prompt", "chosen", "rejected", "score_chosen", "score_rejected", "margin",
    "prompt_ids", "chosen_ids", "rejected_ids",
    "completions", "scores", "ranks",
    "completion", "label", "steps", "labels",
    "tools", "source", "id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """One set of columns that makes a record. A row has this shape if it has one of `any_of`."""

    any_of: tuple[str, ...]
    build: Callable[[Row], Record]


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise ConfigError where a column mapping names a column that no record has."""
    for name in columns:
        if name not in COLUMNS:
            near = get_close_matches(name, COLUMNS, n=1)
            raise ConfigError(
                f"unknown column `{name}`" + (f": did you mean `{near[0]}`?" if near else ""),
                where="data.columns",
                why=f"known: {', '.join(COLUMNS)}",
                next_step="the mapping goes from our name to the file's, as in `{chosen: better}`",
            )


def record_from_row(row: Row, *, objective: str, columns: Mapping[str, str]) -> Record:
    """The record that `row` holds for `objective`. columns: our name -> the file's name.

    Raises RowError: missing_field, blank_completion, bad_type, bad_number, bad_label, bad_tools, bad_token_ids,
    bad_message, not_text, unknown_role, assistant_first, prompts_differ, identical_completions, count_mismatch,
    too_few_completions, invalid_utf8, nul_character.
    """
    named = {**row, **{ours: row[theirs] for ours, theirs in columns.items() if theirs in row}}
    shapes = SHAPES[KINDS[objective]]
    filled = {name for name, value in named.items() if value is not None}
    for present in (filled, named):  # a column full of nulls makes no shape where another one is filled
        for shape in shapes:
            if any(name in present for name in shape.any_of):
                check_text(named)
                return shape.build(named)
    wanted = " or ".join(" + ".join(f"`{columns.get(n, n)}`" for n in shape.any_of) for shape in shapes)
    raise RowError("missing_field", f"none of the columns {wanted}", why=f"the row has: {', '.join(map(str, row))}")


def _pair(row: Row) -> Comparison:
    chosen, rejected = content_of(row, "chosen"), content_of(row, "rejected")
    prompt = optional_content_of(row, "prompt")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("bad_type", "`chosen` and `rejected` are not of one kind (text or messages)")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            prompt, chosen, rejected = split_texts(chosen, rejected)
    elif isinstance(chosen, tuple) and isinstance(rejected, tuple):
        if prompt is None or (isinstance(prompt, str) and _opens(chosen) and _opens(rejected)):
            prompt, chosen, rejected = split_chats(chosen, rejected)  # whole chats hold their prompt themselves
        else:
            chosen, rejected = strip_prompt(prompt, chosen), strip_prompt(prompt, rejected)
    ratings = _pair_ratings(row)
    return _comparison(row, prompt or "", (chosen, rejected), (0, 1), ratings)


def _opens(messages: Sequence[Mapping[str, Any]]) -> bool:
    return bool(messages) and messages[0]["role"] in ("system", "developer", "user")


def _pair_ratings(row: Row) -> tuple[float, ...] | None:
    given = [row.get("score_chosen"), row.get("score_rejected")]
    if given == [None, None]:
        return None
    return tuple(number_of(x, name) for x, name in zip(given, ("score_chosen", "score_rejected"), strict=True))


def _pair_ids(row: Row) -> Comparison:
    chosen, rejected = ids_of(row, "chosen_ids"), ids_of(row, "rejected_ids")
    prompt = ids_of(row, "prompt_ids") if row.get("prompt_ids") is not None else None
    if prompt is None:
        prompt, chosen, rejected = split_ids(chosen, rejected)
    return _comparison(row, prompt, (chosen, rejected), (0, 1), _pair_ratings(row))


def _kwise(row: Row) -> Comparison:
    completions = list_of(row, "completions")
    answers = tuple(as_content(c, f"completions[{k}]") for k, c in enumerate(completions))
    ratings: tuple[float, ...] | None = None
    if row.get("ranks") is not None:
        order = [number_of(x, f"ranks[{k}]") for k, x in enumerate(list_of(row, "ranks"))]
        if row.get("scores") is not None:
            ratings = numbers_of(row, "scores")
    elif row.get("scores") is not None:
        ratings = numbers_of(row, "scores")
        order = [-x for x in ratings]
    else:
        raise RowError("missing_field", "`completions` need `scores` or `ranks` beside them")
    places = {x: place for place, x in enumerate(sorted(set(order)))}
    ranks = tuple(places[x] for x in order)
    if len(ranks) == len(answers):
        _refuse_identical(answers, ranks)
    prompt = optional_content_of(row, "prompt")
    if prompt is None:
        raise RowError("missing_field", "the column `prompt` is missing or null")
    return _comparison(row, prompt, answers, ranks, ratings)


def _comparison(
    row: Row, prompt: Content, completions: tuple[Content, ...], ranks: tuple[int, ...], ratings: Any
) -> Comparison:
    if isinstance(prompt, tuple):
        check_messages(prompt, name="prompt", starts=True)
    margin = row.get("margin")
    if margin is not None:
        margin = number_of(margin, "margin")
        if margin < 0:
            raise RowError("bad_number", f"`margin` is {margin}, below 0", why="the better one is named by `chosen`")
    record = Comparison(
        prompt=prompt,
        completions=completions,
        ranks=ranks,
        ratings=ratings,
        margin=margin,
        tools=tools_of(row),
        source=text_of(row, "source"),
        id=text_of(row, "id"),
    )
    _refuse_identical(completions, ranks)
    return record


def _refuse_identical(completions: Sequence[Content], ranks: Sequence[int]) -> None:
    """The same completion cannot be better than itself; where both are tied it does no harm."""
    first_rank: dict[str, int] = {}
    for completion, rank in zip(completions, ranks, strict=True):
        key = repr(completion.strip() if isinstance(completion, str) else completion)
        if first_rank.setdefault(key, rank) != rank:
            what = "`chosen` equals `rejected`" if len(completions) == 2 else "two completions of other rank are equal"
            raise RowError("identical_completions", what)


def _outcome(row: Row) -> OutcomeExample:
    prompt, completion = _prompt(row), content_of(row, "completion")
    label = row.get("label")
    if isinstance(label, int | float) and not isinstance(label, bool) and label in (0, 1):
        label = bool(label)
    if label is None:
        raise RowError("missing_field", "the column `label` is missing or null")
    return OutcomeExample(
        prompt=prompt,
        completion=completion,
        label=label,
        tools=tools_of(row),
        source=text_of(row, "source"),
        id=text_of(row, "id"),
    )


def _process(row: Row) -> ProcessExample:
    name = "steps" if row.get("steps") is not None else "completions"
    steps = list_of(row, name)
    return ProcessExample(
        prompt=_prompt(row),
        steps=Steps(tuple(steps)),
        labels=tuple(_step_label(x) for x in list_of(row, "labels")),
        tools=tools_of(row),
        source=text_of(row, "source"),
        id=text_of(row, "id"),
    )


def _step_label(label: Any) -> int:
    if isinstance(label, bool):
        return 1 if label else -1
    if isinstance(label, int | float) and label in (-1, 0, 1):
        return int(label)
    raise RowError("bad_label", f"step labels must be true, false, -1, 0 or 1, not {label!r}")


def _prompt(row: Row) -> Content:
    prompt = content_of(row, "prompt")
    if isinstance(prompt, tuple):
        check_messages(prompt, name="prompt", starts=True)
    return prompt


_PAIR = Shape(("chosen", "rejected"), _pair)
_PAIR_IDS = Shape(("chosen_ids", "rejected_ids"), _pair_ids)
_KWISE = Shape(("completions",), _kwise)

SHAPES: dict[str, tuple[Shape, ...]] = {
    "comparison": (_PAIR, _PAIR_IDS, _KWISE),
    "ranking": (_KWISE, _PAIR, _PAIR_IDS),
    "outcome": (Shape(("completion", "label"), _outcome),),
    "process": (Shape(("steps", "completions", "labels"), _process),),
}

KINDS = {
    "bradley_terry": "comparison",
    "all_pairs": "ranking",
    "plackett_luce": "ranking",
    "outcome": "outcome",
    "process": "process",
}
