"""Row -> record, for every column set; and the bad rows, each with its code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rmray.data.sources import check_columns, record_from_row
from rmray.errors import ConfigError, RowError
from rmray.schema import Comparison, OutcomeExample, ProcessExample, Record, Steps, TokenIds, request_of

QUESTION = {"role": "user", "content": "q"}
GOOD = {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}
TEXT, IMAGE = {"type": "text", "text": "q"}, {"type": "image", "image": "a.png"}


def record(row: dict[str, Any], objective: str = "bradley_terry", columns: dict[str, str] | None = None) -> Record:
    return record_from_row(row, objective=objective, columns=columns or {})


def comparison(row: dict[str, Any], **options: Any) -> Comparison:
    made = record(row, **options)
    assert isinstance(made, Comparison)
    return made


def code(row: dict[str, Any], objective: str = "bradley_terry", columns: dict[str, str] | None = None) -> str:
    with pytest.raises(RowError) as error:
        record(row, objective, columns)
    return error.value.code


def test_a_pair_of_texts() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1, "source": "s", "id": 7, "other": None}
    assert comparison(row) == Comparison(
        prompt="p", completions=("a", "b"), ranks=(0, 1), margin=1.0, source="s", id="7"
    )


def test_a_pair_of_chats_with_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": None}}]
    row = {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD], "tools": tools}
    made = comparison(row)
    assert made.prompt == (QUESTION,)
    assert made.completions == ((GOOD,), (BAD,))
    assert made.tools == ({"type": "function", "function": {"name": "f"}},)
    assert comparison({**row, "tools": json.dumps(tools)}).tools == made.tools


def test_answers_that_repeat_the_prompt_lose_it() -> None:
    row = {"prompt": [QUESTION], "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}
    assert comparison(row).completions == ((GOOD,), (BAD,))
    # A text prompt beside whole chats: the chats hold the prompt themselves, with their system message.
    system = {"role": "system", "content": "s"}
    row = {"prompt": "q", "chosen": [system, QUESTION, GOOD], "rejected": [system, QUESTION, BAD]}
    assert comparison(row).prompt == (system, QUESTION)


def test_one_message_needs_no_list_and_null_keys_vanish() -> None:
    made = comparison({"prompt": "q", "chosen": {**GOOD, "tool_calls": None}, "rejected": BAD})
    assert made.completions == ((GOOD,), (BAD,))


def test_parts_of_text_make_the_record_that_the_text_makes() -> None:
    def in_parts(message: dict[str, str]) -> dict[str, Any]:
        first, rest = message["content"][:1], message["content"][1:]
        # Columnar files give a part every key that any part has.
        return {**message, "content": [{"type": "text", "text": t, "image": None} for t in (first, rest)]}

    row = {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}
    made = comparison({side: [in_parts(m) for m in chat] for side, chat in row.items()})
    assert made == comparison(row) == comparison({**row, "rejected": [in_parts(QUESTION), BAD]})
    assert made.prompt == (QUESTION,)


def test_pairs_without_a_prompt_take_their_common_beginning() -> None:
    made = comparison({"chosen": "Q: why? A: because", "rejected": "Q: why? A: before"})
    assert (made.prompt, made.completions) == ("Q: why? A:", (" because", " before"))
    made = comparison({"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]})
    assert (made.prompt, made.completions) == ((QUESTION,), ((GOOD,), (BAD,)))
    made = comparison({"chosen_ids": [1, 2, 3], "rejected_ids": [1, 2, 4, 5]})
    assert (made.prompt, made.completions) == (TokenIds((1, 2)), (TokenIds((3,)), TokenIds((4, 5))))


def test_an_empty_prompt_is_a_prompt() -> None:
    assert comparison({"prompt": "", "chosen": "yes", "rejected": "no"}).prompt == ""


def test_pre_tokenised_pairs() -> None:
    made = comparison({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]})
    assert (made.prompt, made.completions) == (TokenIds((1,)), (TokenIds((2,)), TokenIds((3,))))


@pytest.mark.parametrize(
    ("columns", "ranks", "ratings"),
    [
        ({"scores": [1.0, 5, 5, 2]}, (2, 0, 0, 1), (1.0, 5.0, 5.0, 2.0)),
        ({"ranks": [4, 1, 2, 2]}, (2, 0, 1, 1), None),
        ({"ranks": [3, 0, 1, 2], "scores": [1, 9, 8, 7]}, (3, 0, 1, 2), (1.0, 9.0, 8.0, 7.0)),
    ],
)
def test_completions_with_scores_or_ranks(columns: dict[str, Any], ranks: Any, ratings: Any) -> None:
    for objective in ("bradley_terry", "all_pairs", "plackett_luce"):
        made = comparison({"prompt": "p", "completions": ["a", "b", "c", "d"], **columns}, objective=objective)
        assert (made.ranks, made.ratings) == (ranks, ratings)


def test_scores_of_a_pair_become_ratings() -> None:
    made = comparison({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 5, "score_rejected": 2})
    assert made.ratings == (5.0, 2.0)


def test_the_objective_decides_which_columns_are_meant() -> None:
    row = {
        "prompt": "p", "chosen": "a", "rejected": "b", "completions": ["c", "d", "e"], "scores": [3, 2, 1],
        "completion": "f", "label": True, "steps": ["g"], "labels": [1],
    }  # fmt: skip
    assert comparison(row).completions == ("a", "b")
    assert comparison(row, objective="all_pairs").completions == ("c", "d", "e")
    assert record(row, "outcome") == OutcomeExample(prompt="p", completion="f", label=True)
    assert record(row, "process") == ProcessExample(prompt="p", steps=Steps(("g",)), labels=(1,))


def test_a_column_of_nulls_makes_no_shape() -> None:
    row = {"prompt": "p", "chosen": None, "rejected": None, "completions": ["c", "d"], "scores": [2, 1]}
    assert comparison(row).completions == ("c", "d")


@pytest.mark.parametrize(("label", "expected"), [(True, True), (False, False), (1, True), (0, False), (1.0, True)])
def test_outcome_labels(label: Any, expected: bool) -> None:
    assert record({"prompt": "p", "completion": "c", "label": label}, "outcome").label is expected  # type: ignore[union-attr]


@pytest.mark.parametrize("objective", ["outcome", "process"])
def test_tools_of_labelled_rows_are_kept_and_asked_with(objective: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": None}}]
    row = {"prompt": [QUESTION], "completion": [GOOD], "label": True, "steps": ["g"], "labels": [1]}
    made = record({**row, "tools": json.dumps(tools)}, objective)
    assert made.tools == ({"type": "function", "function": {"name": "f"}},)
    assert request_of(made, "hash").tools == made.tools
    assert request_of(record(row, objective), "hash").tools is None


def test_process_labels_in_both_spellings() -> None:
    ours = record({"prompt": "p", "steps": ["a", "b", "c"], "labels": [1, 0, -1]}, "process")
    assert ours == ProcessExample(prompt="p", steps=Steps(("a", "b", "c")), labels=(1, 0, -1))
    trl = record({"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}, "process")
    assert trl == ProcessExample(prompt="p", steps=Steps(("a", "b")), labels=(1, -1))


def test_a_column_mapping_goes_from_our_name_to_the_files() -> None:
    columns = {"chosen": "better", "rejected": "chosen"}
    made = comparison({"prompt": "p", "better": "a", "chosen": "b"}, columns=columns)
    assert made.completions == ("a", "b")
    with pytest.raises(RowError, match="better"):
        record({"prompt": "p"}, columns={"chosen": "better", "rejected": "worse"})


def test_a_mapping_of_an_unknown_column_is_an_error_of_the_config() -> None:
    with pytest.raises(ConfigError, match="did you mean `chosen`"):
        check_columns({"chosn": "better"})


# Bad input 3: a column is missing.


@pytest.mark.parametrize(
    ("row", "objective"),
    [
        ({"prompt": "p", "chosen": "a"}, "bradley_terry"),
        ({"prompt": "p", "rejected": "a"}, "bradley_terry"),
        ({"prompt": "p", "text": "a"}, "bradley_terry"),
        ({}, "bradley_terry"),
        ({"chosen_ids": [1]}, "bradley_terry"),
        ({"prompt": "p", "completions": ["a", "b"]}, "all_pairs"),
        ({"completions": ["a", "b"], "scores": [2, 1]}, "all_pairs"),
        ({"prompt": "p", "completion": "a"}, "outcome"),
        ({"prompt": "p", "steps": ["a"]}, "process"),
    ],
)
def test_a_missing_column(row: dict[str, Any], objective: str) -> None:
    assert code(row, objective) == "missing_field"


# Bad input 4: a null or blank response.


@pytest.mark.parametrize("response", [None, "", " \n\t", [], [{"role": "assistant", "content": " "}]])
def test_a_null_or_blank_response(response: Any) -> None:
    other = "a" if response is None or isinstance(response, str) else [GOOD]
    assert code({"prompt": "p", "chosen": other, "rejected": response}) == "blank_completion"
    assert code({"prompt": "p", "completions": [other, response], "scores": [2, 1]}, "all_pairs") == "blank_completion"


# Bad input 5: chosen equals rejected.


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "a", "rejected": "a"},
        {"prompt": "p", "chosen": "a", "rejected": " a\n"},
        {"chosen": "p a", "rejected": "p a"},
        {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [GOOD]},
        {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, GOOD]},
        {"chosen_ids": [1, 2], "rejected_ids": [1, 2]},
        {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [2]},
        {"prompt": "p", "completions": ["a", "b", "a"], "scores": [3, 2, 1]},
    ],
)
def test_chosen_equals_rejected(row: dict[str, Any]) -> None:
    assert code(row) == "identical_completions"


def test_equal_completions_that_are_tied_do_no_harm() -> None:
    assert comparison({"prompt": "p", "completions": ["a", "b", "a"], "scores": [3, 1, 3]}).ranks == (0, 1, 0)


# Bad input 7: implicit prompts that differ.


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "Yes, it is.", "rejected": "No, it is not."},
        {"prompt": None, "chosen": "Yes, it is.", "rejected": "No, it is not."},
        {"chosen": "\n\nHuman: why?\n\nAssistant: so", "rejected": "\n\nHuman: when?\n\nAssistant: now"},
        {"chosen": [QUESTION, GOOD], "rejected": [{"role": "user", "content": "other"}, BAD]},
        {"chosen": [QUESTION, GOOD, QUESTION, GOOD], "rejected": [QUESTION, GOOD, {**QUESTION, "content": "x"}, BAD]},
        {"prompt": "q", "chosen": [QUESTION, GOOD], "rejected": [{"role": "user", "content": "other"}, BAD]},
        {"prompt": [QUESTION], "chosen": [{"role": "user", "content": "other"}, GOOD], "rejected": [BAD]},
        {"chosen_ids": [1, 2], "rejected_ids": [3, 4]},
    ],
)
def test_prompts_that_differ(row: dict[str, Any]) -> None:
    assert code(row) == "prompts_differ"


# Bad input 8: an unknown role, or a chat that starts with the assistant.


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": [{"role": "robot", "content": "q"}], "chosen": [GOOD], "rejected": [BAD]}, "unknown_role"),
        ({"prompt": [QUESTION], "chosen": [{**GOOD, "role": "bot"}], "rejected": [BAD]}, "unknown_role"),
        ({"prompt": [GOOD, QUESTION], "chosen": [GOOD], "rejected": [BAD]}, "assistant_first"),
        ({"chosen": [GOOD, QUESTION, GOOD], "rejected": [GOOD, QUESTION, BAD]}, "assistant_first"),
        ({"prompt": [{"content": "q"}], "chosen": [GOOD], "rejected": [BAD]}, "bad_message"),
        ({"prompt": [{"role": "user"}], "chosen": [GOOD], "rejected": [BAD]}, "bad_message"),
        ({"prompt": [QUESTION], "chosen": [{**GOOD, "content": [IMAGE]}], "rejected": [BAD]}, "not_text"),
        ({"prompt": [{**QUESTION, "content": [TEXT, IMAGE]}], "chosen": [GOOD], "rejected": [BAD]}, "not_text"),
        ({"prompt": [{**QUESTION, "content": ["q"]}], "chosen": [GOOD], "rejected": [BAD]}, "not_text"),
    ],
)
def test_bad_messages(row: dict[str, Any], expected: str) -> None:
    assert code(row) == expected


# Bad input 11: a label or margin that is NaN or out of range.


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), -0.5, "0.5", True, [1], 10**400])
def test_bad_margins(margin: Any) -> None:
    assert code({"prompt": "p", "chosen": "a", "rejected": "b", "margin": margin}) == "bad_number"


@pytest.mark.parametrize("scores", [[1, float("nan")], [1, None], ["5", "3"], [float("inf"), 1]])
def test_bad_scores(scores: Any) -> None:
    assert code({"prompt": "p", "completions": ["a", "b"], "scores": scores}) == "bad_number"
    assert code({"prompt": "p", "completions": ["a", "b"], "ranks": scores}, "all_pairs") == "bad_number"


@pytest.mark.parametrize("label", [float("nan"), 2, -1, "true", [True]])
def test_bad_outcome_labels(label: Any) -> None:
    assert code({"prompt": "p", "completion": "c", "label": label}, "outcome") == "bad_label"


@pytest.mark.parametrize("labels", [[1, 2], [1, float("nan")], [1, "0"], [1, None]])
def test_bad_step_labels(labels: Any) -> None:
    assert code({"prompt": "p", "steps": ["a", "b"], "labels": labels}, "process") == "bad_label"


@pytest.mark.parametrize(
    ("row", "objective", "expected"),
    [
        ({"prompt": "p", "completions": ["a", "b"], "scores": [1]}, "all_pairs", "count_mismatch"),
        ({"prompt": "p", "completions": ["a"], "scores": [1]}, "all_pairs", "too_few_completions"),
        ({"prompt": "p", "steps": ["a"], "labels": [1, 1]}, "process", "count_mismatch"),
        ({"prompt": "p", "steps": ["a", " "], "labels": [1, 1]}, "process", "blank_completion"),
        ({"prompt": "p", "steps": "a", "labels": [1]}, "process", "bad_type"),
        ({"prompt": "p", "chosen": 5, "rejected": "b"}, "bradley_terry", "bad_type"),
        ({"prompt": 5, "chosen": "a", "rejected": "b"}, "bradley_terry", "bad_type"),
        ({"prompt": "p", "chosen": "a", "rejected": [BAD]}, "bradley_terry", "bad_type"),
        ({"prompt": "p", "completions": "ab", "scores": [1, 2]}, "all_pairs", "bad_type"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tools": "no json"}, "bradley_terry", "bad_tools"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tools": [5]}, "bradley_terry", "bad_tools"),
        ({"chosen_ids": [1, -2], "rejected_ids": [1, 3]}, "bradley_terry", "bad_token_ids"),
        ({"chosen_ids": [1, 2.5], "rejected_ids": [1, 3]}, "bradley_terry", "bad_token_ids"),
        ({"chosen_ids": "12", "rejected_ids": [1, 3]}, "bradley_terry", "bad_token_ids"),
        ({"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [3]}, "bradley_terry", "blank_completion"),
        # Bad input 2, where the text itself holds it.
        ({"prompt": "p", "chosen": "a\0", "rejected": "b"}, "bradley_terry", "nul_character"),
        ({"prompt": "p", "chosen": [{**GOOD, "content": "\0"}], "rejected": [BAD]}, "bradley_terry", "nul_character"),
        ({"prompt": "p", "chosen": "a\ud800", "rejected": "b"}, "bradley_terry", "invalid_utf8"),
    ],
)  # fmt: skip
def test_other_bad_rows(row: dict[str, Any], objective: str, expected: str) -> None:
    assert code(row, objective) == expected
