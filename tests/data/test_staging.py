"""Rows to parts and parts to windows, without Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rmray.data.prepared import Window, read_window
from rmray.data.render import Renderer, RenderRules
from rmray.data.sources import find_files
from rmray.data.staging import RAW_COLUMNS, RawLine, raw_tables, stage, stage_batch, write_part
from rmray.data.windows import Holdout, part_keys, write_windows
from rmray.errors import TrainingError
from rmray.schema import Steps
from tests.data.tokenizers import qwen_like


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    tokenizer = qwen_like()
    return Renderer(tokenizer, RenderRules.for_tokenizer(tokenizer, max_length=40))


def line(number: int, row: Any, file: str = "f.jsonl") -> RawLine:
    return RawLine(file, f"0123456789abcdef:{number}", number, json.dumps(row).encode())


def pair(prompt: str, chosen: str = "good", rejected: str = "bad", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_a_row_is_staged_with_all_it_needs(renderer: Renderer) -> None:
    part = stage([line(3, pair("Two ", margin=0.5, source="s"))], renderer, objective="bradley_terry", columns={})
    (row,) = part.table().to_pylist()
    group = renderer.render_group("Two ", ["good", "bad"])
    assert row["prefix"] == group.prefix.tolist()
    assert row["suffixes"] == [s.tolist() for s in group.suffixes]
    assert row["prompt_lens"] == list(group.prompt_lens)
    assert row["num_tokens"] == group.num_tokens
    assert (row["row_id"], row["source"], row["margin"], row["ratings"]) == ("0123456789abcdef:3", "s", 0.5, None)
    assert (row["ranks"], row["num_chars"]) == ([0, 1], [4, 3])


@pytest.mark.parametrize("objective", ["outcome", "process"])
def test_tools_of_labelled_rows_are_read_by_the_model(objective: str) -> None:
    tokenizer = qwen_like()
    tokenizer.chat_template = "{{ tools }}" + tokenizer.chat_template
    with_tools = Renderer(tokenizer, RenderRules.for_tokenizer(tokenizer, max_length=400, step_separator="\n"))
    prompt, tools = [{"role": "user", "content": "Two?"}], [{"type": "function", "function": {"name": "f"}}]
    row = {"prompt": prompt, "completion": "good", "label": True, "steps": ["good"], "labels": [1], "tools": tools}
    [staged] = stage([line(1, row)], with_tools, objective=objective, columns={}).rows
    completion = "good" if objective == "outcome" else Steps(("good",))
    told, untold = (with_tools.render_group(tuple(prompt), [completion], tools=t) for t in (tools, None))
    assert staged["num_tokens"] == told.num_tokens > untold.num_tokens


def test_longer_lists_are_stored_shuffled_with_their_ranks(renderer: Renderer) -> None:
    completions = ["a", "bb", "ccc", "dddd", "eeeee"]
    rows = [line(n, {"prompt": "p ", "completions": completions, "scores": [5, 4, 3, 2, 1]}) for n in range(1, 9)]
    stored = stage(rows, renderer, objective="bradley_terry", columns={}).rows
    assert len({tuple(r["ranks"]) for r in stored}) > 1
    for row in stored:
        assert row["num_chars"] == [rank + 1 for rank in row["ranks"]]
        assert row["ratings"] == [5.0 - rank for rank in row["ranks"]]
        group = renderer.render_group("p ", [completions[rank] for rank in row["ranks"]])
        assert [s.tolist() for s in row["suffixes"]] == [s.tolist() for s in group.suffixes]


def test_what_is_not_kept_is_told(renderer: Renderer) -> None:
    lines = [
        line(1, pair("Two ")),
        RawLine("f.jsonl", "x:2", 2, b"{broken"),
        RawLine("f.csv", "x:3", 3, b"", "broken_csv", "too many cells"),
        line(4, pair("Two ", rejected=" ")),
        line(5, pair("Two " * 50)),
        line(6, {"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}),
        line(7, pair("Two ", "good <|im_end|>x", "bad")),
        line(8, pair("Two ", "a<|im_start|>b", "a< |im_start|>b")),  # differ as text, not as ids
    ]
    part = stage(lines, renderer, objective="bradley_terry", columns={})
    assert [r["row_id"][-2:] for r in part.rows] == [":1", ":7"]
    assert [(q["file"], q["line"], q["code"]) for q in part.quarantined] == [
        ("f.jsonl", 2, "broken_json"),
        ("f.csv", 3, "broken_csv"),
        ("f.jsonl", 4, "blank_completion"),
        ("f.jsonl", 8, "identical_completions"),
    ]
    assert part.quarantined[1]["reason"] == "too many cells"
    assert part.dropped == {"over_length": 1, "all_tied": 1}
    assert part.notes["rows_with_escaped_special_tokens"] == 1


def test_rows_without_what_the_margin_needs_are_quarantined(renderer: Renderer) -> None:
    scored = {"prompt": "Two ", "completions": ["a", "b", "c"], "scores": [3, 2, 1]}
    rows = [
        line(1, pair("Two ", margin=0.5)),
        line(2, pair("Two ")),
        line(3, pair("Two ", score_chosen=5, score_rejected=2)),
        line(4, pair("Two ", score_chosen=2, score_rejected=5)),
        line(5, scored | {"margin": 1}),
    ]

    def codes(margin: Any) -> dict[int, str]:
        part = stage(rows, renderer, objective="bradley_terry", columns={}, margin=margin)
        assert len(part.rows) + len(part.quarantined) == len(rows)
        return {entry["line"]: entry["code"] for entry in part.quarantined}

    assert codes("none") == codes(0.5) == {}
    missing = dict.fromkeys((2, 3, 4), "missing_margin")
    assert codes("data") == missing | {5: "margin_of_several_pairs"}
    assert codes("rating_difference") == {1: "missing_scores", 2: "missing_scores", 4: "contradicting_scores"}


@pytest.mark.parametrize("objective", ["all_pairs", "plackett_luce"])
def test_a_pair_is_a_ranking_of_two_and_what_ranks_nothing_is_counted(renderer: Renderer, objective: str) -> None:
    several = {"prompt": "Two ", "completions": ["a", "b", "c"]}
    rows = [
        line(1, pair("Two ")),
        line(2, several | {"scores": [1, 3, 2]}),
        line(3, several | {"ranks": [1, 1, 7]}),
        line(4, several | {"scores": [2, 2, 2]}),
        line(5, {"prompt": "Two ", "completions": ["a"], "scores": [1]}),
    ]
    part = stage(rows, renderer, objective=objective, columns={})
    assert [sorted(row["ranks"]) for row in part.rows] == [[0, 1], [0, 1, 2], [0, 0, 1]]
    assert (part.dropped, part.notes["rows_with_ties"]) == ({"all_tied": 1}, 1)
    assert [(q["line"], q["code"]) for q in part.quarantined] == [(5, "too_few_completions")]


def test_truncated_rows_are_counted() -> None:
    tokenizer = qwen_like()
    rules = RenderRules.for_tokenizer(tokenizer, max_length=40, over_length="truncate_prompt")
    part = stage([line(1, pair("Two " * 50))], Renderer(tokenizer, rules), objective="bradley_terry", columns={})
    assert part.notes["truncated_rows"] == 1
    assert not part.dropped


def test_readers_end_with_the_number_of_rows(tmp_path: Path, renderer: Renderer) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(pair(f"p{i}")) for i in range(600)) + "\n{broken}\n")
    (file,) = find_files(str(path))
    tables = list(raw_tables(file, "train", {}))
    assert [t.num_rows for t in tables] == [256, 256, 90]
    assert all(t.schema == RAW_COLUMNS for t in tables)
    summaries = [stage_batch(t, renderer, objective="bradley_terry", columns={}, directory=tmp_path) for t in tables]
    assert [s["rows_read"] for s in summaries] == [[], [], [("train", str(path), 601)]]
    parts = [Path(p) for s in summaries for _, p in s["parts"]]
    assert sum(pq.read_metadata(p).num_rows for p in parts) == 600
    assert [q["line"] for s in summaries for q in s["quarantined"]] == [601]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, renderer: Renderer) -> list[Path]:
    """Three parts with 300 rows of 100 prompts, three rows each, spread over the parts."""
    directory = tmp_path_factory.mktemp("parts")
    paths = []
    for p in range(3):
        lines = [line(100 * p + i + 1, pair(f"prompt {i} ", f"good {p}", f"bad {p}")) for i in range(100)]
        write_part(stage(lines, renderer, objective="bradley_terry", columns={}).table(), directory / f"{p}.parquet")
        paths.append(directory / f"{p}.parquet")
    return paths


@pytest.mark.parametrize("num_windows", [1, 7])
def test_windows_hold_whole_prompts_in_layout_order(parts: list[Path], tmp_path: Path, num_windows: int) -> None:
    bounds = [-(-w * 2**64 // num_windows) for w in range(num_windows + 1)]
    windows, notes = [], {}
    for first in range(0, num_windows, 3):  # tasks of three windows each
        of_task = bounds[first : first + 4]
        made, notes = write_windows(
            parts, directory=tmp_path, split="train", holdout=Holdout(), first=first, bounds=of_task
        )
        windows += made
        assert not +notes
    rows = [row for window in windows for row in read_window(tmp_path, window)]
    assert len(rows) == 300
    assert [(r.prompt_key, r.row_id) for r in rows] == sorted((r.prompt_key, r.row_id) for r in rows)
    assert len({r.prompt_key for r in rows}) == 100
    keys_of = [{r.prompt_key for r in read_window(tmp_path, w)} for w in windows]
    assert sum(map(len, keys_of)) == 100  # no prompt in two windows
    for window in windows:
        read = read_window(tmp_path, window)
        assert window == Window(window.path, len(read), sum(r.group.num_tokens for r in read))


def test_holdouts_share_no_row_and_lose_none(parts: list[Path], tmp_path: Path) -> None:
    limit = 2**62
    counts = {}
    for split, holdout in (("train", Holdout(low=limit)), ("eval", Holdout(high=limit))):
        (window,), _ = write_windows(
            parts, directory=tmp_path, split=split, holdout=holdout, first=0, bounds=[0, 2**64]
        )
        rows = read_window(tmp_path, window)
        counts[split] = {r.row_id for r in rows}
        assert len(rows) == int(holdout.mask(part_keys(parts)).sum())
    assert not counts["train"] & counts["eval"]
    assert len(counts["train"] | counts["eval"]) == 300


def test_empty_windows_are_left_out(parts: list[Path], tmp_path: Path) -> None:
    keys = np.sort(np.unique(part_keys(parts)))
    bounds = [0, int(keys[0]), int(keys[0]) + 1, int(keys[1]), 2**64]
    windows, _ = write_windows(parts, directory=tmp_path, split="train", holdout=Holdout(), first=0, bounds=bounds)
    assert [w.path for w in windows] == ["train/window-00001.parquet", "train/window-00003.parquet"]
    assert [w.num_rows for w in windows] == [3, 297]


def test_a_window_that_begins_at_a_parts_last_key_reads_it(parts: list[Path], tmp_path: Path) -> None:
    last = int(part_keys(parts).max())
    (window,), _ = write_windows(
        parts, directory=tmp_path, split="train", holdout=Holdout(), first=4, bounds=[last, 2**64]
    )
    assert (window.path, window.num_rows) == ("train/window-00004.parquet", 3)


# Bad input 6: duplicate and contradicting pairs are kept and counted.


def test_repeated_pairs_are_counted(renderer: Renderer, tmp_path: Path) -> None:
    rows = [
        pair("a "), pair("a "), pair("a "),  # two beyond the first
        pair("b "), pair("b ", "bad", "good"), pair("b "),  # three that contradict, one of them a duplicate
        pair("c "), pair("d "),
    ]  # fmt: skip
    part = stage([line(i + 1, r) for i, r in enumerate(rows)], renderer, objective="bradley_terry", columns={})
    write_part(part.table(), tmp_path / "part.parquet")
    windows, notes = write_windows(
        [tmp_path / "part.parquet"], directory=tmp_path, split="train", holdout=Holdout(), first=0, bounds=[0, 2**64]
    )
    assert notes == {"duplicate_rows": 3, "contradicting_rows": 3}
    assert sum(w.num_rows for w in windows) == len(rows)


def test_a_row_that_was_staged_twice_is_found(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="staged twice"):
        write_windows(
            [*parts, parts[0]], directory=tmp_path, split="train", holdout=Holdout(), first=0, bounds=[0, 2**64]
        )
