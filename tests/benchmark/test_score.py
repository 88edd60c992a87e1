"""`benchmark score`, whole, at a size of seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmray.benchmark import score
from rmray.benchmark.report import OURS, print_report
from rmray.benchmark.run import Subject, choose_workloads, run_score
from rmray.benchmark.score_rows import PlainRow, RmrayRow, padded_batches
from rmray.benchmark.settings import ScoreSettings, choose_rows, require
from rmray.benchmark.words import text_of, word_tokenizer
from rmray.benchmark.workloads import GRID, WORKLOADS, Workload, make_groups
from rmray.errors import ConfigError
from tests.benchmark.conftest import TINY

SETTINGS = ScoreSettings(threads=1, rows=score.ROWS, rounds=1, num_completions=32, max_batch_tokens=400)
WORKLOAD = Workload("w", 24, 8, 4)


def test_a_cell_counts_what_each_row_computes(prototype: Any, small_peak: None) -> None:
    cell = score.measure_workload(WORKLOAD, "tiny", prototype, SETTINGS, notify=lambda line: None)
    groups = make_groups(WORKLOAD, 8, TINY.vocab_size)
    paths = [len(g.path(k)) for g in groups for k in range(4)]
    rows = {row.name: row for row in cell.rows}
    assert list(rows) == list(score.ROWS)
    assert rows[OURS].tokens == sum(g.num_tokens for g in groups)
    assert rows["one by one"].tokens == cell.tokens_given == sum(paths)
    assert rows["pipeline"].tokens == sum(8 * max(paths[i : i + 8]) for i in range(0, 32, 8))
    assert rows["transformers padded"].tokens == sum(
        len(batch) * paths[batch[0]] for batch in padded_batches(paths, cell.padded_batch_tokens or 0)
    )
    assert cell.padded_batch_tokens == 400
    assert cell.unit == "completions"
    assert cell.num_units == 32


def test_the_whole_benchmark_writes_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_peak: None
) -> None:
    monkeypatch.setattr("rmray.benchmark.run.SHAPES", {"tiny": TINY, "other": replace(TINY, num_hidden_layers=1)})
    monkeypatch.setitem(WORKLOADS, "small", WORKLOAD)
    subject = Subject(models=["tiny", "other"], workloads=["small"])
    report = run_score(subject, replace(SETTINGS, rows=(OURS, "one by one")), tmp_path, notify=print)
    print_report(report)
    assert "one by one" in capsys.readouterr().out
    saved = json.loads((tmp_path / "score.json").read_text())
    assert [cell["model"] for cell in saved["cells"]] == ["tiny", "other"]
    assert (tmp_path / "score.png").stat().st_size > 1000


def test_the_padded_rows_budget_may_be_given(prototype: Any, small_peak: None) -> None:
    settings = replace(SETTINGS, rows=("transformers padded",), padded_batch_tokens=100)
    cell = score.measure_workload(WORKLOAD, "tiny", prototype, settings, notify=lambda line: None)
    paths = [len(g.path(k)) for g in make_groups(WORKLOAD, 8, TINY.vocab_size) for k in range(4)]
    assert cell.rows[0].tokens == sum(len(b) * paths[b[0]] for b in padded_batches(paths, 100))
    assert cell.rows[0].speed_up is None


def test_files_are_scored_with_their_base(tmp_path: Path, tiny_base: Path, small_peak: None) -> None:
    rows = [
        {"prompt": f"Question {i}: ", "chosen": "two plus three " * i, "rejected": "the weather"} for i in range(1, 9)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    settings = replace(SETTINGS, rows=(OURS, "transformers padded", "one by one"))
    subject = Subject(data=[str(file)], base=str(tiny_base))
    report = run_score(subject, settings, tmp_path, notify=lambda line: None)
    (cell,) = report.cells
    assert (cell.workload, cell.num_units, cell.ideal_of_means) == ("rows.jsonl", 16, None)
    with pytest.raises(ConfigError, match="--base"):
        run_score(Subject(data=[str(file)]), settings, tmp_path, notify=lambda line: None)


def test_scores_are_in_the_order_of_the_completions(prototype: Any) -> None:
    groups = make_groups(WORKLOAD, 5, TINY.vocab_size)
    ours = RmrayRow(prototype, groups, SETTINGS).score()
    last_first = RmrayRow(prototype, groups[::-1], SETTINGS).score()
    np.testing.assert_allclose(ours.reshape(5, 4), last_first.reshape(5, 4)[::-1], atol=1e-6)
    one_by_one = PlainRow("one by one", prototype, groups, SETTINGS).score()
    assert len(set(np.round(one_by_one, 5))) > 10


def test_padded_batches_by_hand() -> None:
    assert padded_batches([3, 9, 4, 4, 20, 1], 12) == [[4], [1], [2, 3, 0], [5]]
    assert padded_batches([], 12) == []


def test_the_word_tokenizer_gives_the_ids_back() -> None:
    ids = [1, 10, 100, 0, 7]
    assert word_tokenizer(120)(text_of(ids))["input_ids"] == ids


def test_rows_and_workloads_by_name() -> None:
    assert choose_rows(score.ROWS, None, ["pipeline"]) == (OURS, "transformers padded", "one by one")
    assert choose_rows(score.ROWS, ["pipeline", OURS], None) == (OURS, "pipeline")
    assert [w.name for w in choose_workloads(["losing", "all"])] == [
        "losing", "multi-turn", "chat", "rollouts-8", "rollouts-16",
    ]  # fmt: skip
    assert choose_workloads(["grid"]) == list(GRID)
    with pytest.raises(ConfigError, match="no row"):
        choose_rows(score.ROWS, ["trl"], None)
    with pytest.raises(ConfigError, match="no row is left"):
        choose_rows(score.ROWS, [OURS], [OURS])
    with pytest.raises(ConfigError, match="no workload"):
        choose_workloads(["long"])


def test_a_missing_package_is_named_with_its_command() -> None:
    with pytest.raises(ConfigError, match="pip install 'rmray\\[benchmark\\]'"):
        require("no_such_package.part", "a plot")
