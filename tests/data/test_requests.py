"""Rows of a file become score requests, by the columns they have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rmray.data.requests import read_requests, request_from_row
from rmray.data.sources import record_from_row
from rmray.errors import ConfigError, RowError
from rmray.schema import ScoreRequest, Steps, TokenIds

CHAT = [{"role": "user", "content": "Hi"}]
ANSWER = [{"role": "assistant", "content": "Hello"}]


def of(columns: dict[str, str] | None = None, **row: Any) -> ScoreRequest:
    return request_from_row(row, columns=columns or {})


def test_prompt_with_one_completion() -> None:
    assert of(prompt="p", completion="c", id=7) == ScoreRequest(prompt="p", completions=("c",), id="7")


def test_a_row_that_is_a_pair_and_a_list_is_read_as_evaluation_reads_it() -> None:
    row = {"prompt": "p", "completions": ["b", "a"], "scores": [1, 2], "chosen": "a", "rejected": "b"}
    record = record_from_row(row, objective="bradley_terry", columns={})
    assert of(**row).completions == record.completions == ("a", "b")


def test_prompt_with_completions_texts_or_messages() -> None:
    assert of(prompt="p", completions=["a", "b"]).completions == ("a", "b")
    request = of(prompt=CHAT, completions=[ANSWER, "text"])
    assert request == ScoreRequest(prompt=tuple(CHAT), completions=(tuple(ANSWER), "text"))


def test_chosen_and_rejected_with_and_without_a_prompt() -> None:
    assert of(prompt="p ", chosen="a", rejected="b") == ScoreRequest(prompt="p ", completions=("a", "b"))
    request = of(chosen="One two", rejected="One three")
    assert (request.prompt, request.completions) == ("One", (" two", " three"))
    assert of(chosen=CHAT + ANSWER, rejected=[*CHAT, {"role": "assistant", "content": "No"}]).prompt == tuple(CHAT)


def test_token_ids_come_with_their_tokenizers_hash() -> None:
    request = of(prompt_ids=[1, 2], chosen_ids=[3], rejected_ids=[4], tokenizer_hash="abc")
    assert (request.prompt, request.completions) == (TokenIds((1, 2)), (TokenIds((3,)), TokenIds((4,))))
    assert request.tokenizer_hash == "abc"


def test_finished_for_all_or_for_each() -> None:
    assert of(prompt="p", completion="c", finished=False).finished == (False,)
    assert of(prompt="p", completions=["a", "b"], finished=[True, False]).finished == (True, False)
    assert of(prompt="p", completions=["a", "b"], finished="False").finished == (False, False)
    assert of(prompt="p", completions=["a", "b"], finished=["1", "no"]).finished == (True, False)  # as CSV writes it
    assert of(prompt="p", completions=["a", "b"]).finished == (True, True)


def test_columns_are_mapped() -> None:
    request = of(
        {"prompt": "question", "completion": "answer", "finished": "done"}, question="q", answer="a", done=False
    )
    assert request == ScoreRequest(prompt="q", completions=("a",), finished=(False,))


def test_tools_are_kept() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert of(prompt=CHAT, completion="c", tools=json.dumps(tools)).tools == tuple(tools)


def test_blank_completion_is_left_to_fail_alone() -> None:
    assert of(prompt="p", completions=["a", " "]).completions == ("a", " ")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"prompt": "p"}, "missing_field"),
        ({"completion": "c"}, "missing_field"),
        ({"prompt": None, "completion": "c"}, "missing_field"),
        ({"prompt": "p", "completions": []}, "bad_type"),
        ({"prompt": "p", "completions": "text"}, "bad_type"),
        ({"prompt": "p", "completions": ["a", 3]}, "bad_type"),
        ({"prompt": "p", "completion": "a\0"}, "nul_character"),
        ({"prompt": "p", "completion": "\ud800"}, "invalid_utf8"),
        ({"prompt": [{"role": "pirate", "content": "x"}], "completion": "c"}, "unknown_role"),
        ({"prompt": "p", "completion": "c", "finished": "maybe"}, "bad_type"),
        ({"prompt": "p", "completion": "c", "finished": [True, False]}, "count_mismatch"),
        ({"prompt": "p", "completion": "c", "tools": "not json"}, "bad_tools"),
    ],
)
def test_bad_rows_say_why(row: dict[str, Any], code: str) -> None:
    with pytest.raises(RowError) as caught:
        of(**row)
    assert caught.value.code == code


def test_file_is_read_row_by_row_with_ids_lines_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"prompt": "p", "completion": "c"}\n{broken\n\n{"prompt": "p", "completion": "d"}\n')
    rows = list(read_requests(str(path)))
    assert [line for _, line, _ in rows] == [1, 2, 4]
    assert len({row_id.split(":")[0] for row_id, _, _ in rows}) == 1
    assert isinstance(rows[1][2], RowError)
    assert rows[1][2].code == "broken_json"
    assert rows[2][2] == ScoreRequest(prompt="p", completions=("d",))


def test_unknown_column_in_the_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="complection"):
        next(read_requests(str(tmp_path / "x.jsonl"), columns={"complection": "c"}))


def test_completions_with_labels_are_the_steps_of_one_as_trl_has_them() -> None:
    row = {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}
    assert request_from_row(row, columns={}).completions == (Steps(("a", "b")),)
    assert request_from_row({"prompt": "p", "completions": [["a", "b"], "c"]}, columns={}).completions == (
        Steps(("a", "b")),
        "c",
    )
