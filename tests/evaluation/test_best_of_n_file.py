"""`rmray best-of-n`: the highest reward wins, ties by a draw that no position sways, failures in their place."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rmray.errors import DataError
from rmray.evaluation.best_of_n_file import best_of_n_file, draw
from rmray.evaluation.source import RewardSource, ScorerSource
from rmray.metrics.best_of_n import best_of_n
from tests.fakes import ArithmeticScorer

ROWS = [
    {"prompt": "p", "completions": ["xx", "xxxx", "xxx"], "id": "a"},
    {"prompt": "p", "completions": ["", "xx", "x" * 2000]},
    {"prompt": "p", "completions": ["", "x" * 2000]},
    {"prompt": "nothing"},
    {"prompt": "p", "chosen": "x", "rejected": "xxx"},
    {"prompt": [{"role": "user", "content": "q"}], "completions": [[{"role": "assistant", "content": "xyz"}], "x"]},
    {"prompt": "p", "completions": ["ab", "cd", "e"]},
]


def by_length() -> RewardSource:
    return ScorerSource(ArithmeticScorer(mean=1.0, std=2.0))


def run(directory: Path, *rows: Any, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = best_of_n_file(by_length, str(path), directory / "out", **options)
    return figures, [json.loads(line) for line in Path(figures["best"]).read_text().splitlines()]


def test_the_highest_reward_is_picked_and_everything_is_told(tmp_path: Path) -> None:
    figures, lines = run(tmp_path, *ROWS)
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert lines[0] | {"row_id": ""} == {
        "row_id": "", "line": 1, "id": "a", "best": 1, "completion": "xxxx",
        "reward": 1.5, "margin": 0.5, "rewards": [0.5, 1.5, 1.0],
    }  # fmt: skip
    blank, one, over = lines[1]["rewards"]
    assert (lines[1]["best"], lines[1]["margin"], one) == (1, None, 0.5)
    assert (blank["error"]["code"], over["error"]["code"]) == ("blank_completion", "over_length")
    assert lines[2]["error"] == {
        "code": "no_score", "message": "no completion could be scored: blank_completion; over_length",
    }  # fmt: skip
    assert lines[3]["error"]["code"] == "missing_field"
    assert (lines[4]["best"], lines[4]["completion"]) == (1, "xxx"), "the data's own preference is not looked at"
    assert lines[5]["completion"] == [{"role": "assistant", "content": "xyz"}]
    assert (lines[6]["tied"], lines[6]["margin"]) == ([0, 1], 0.0)
    assert lines[6]["best"] in (0, 1)
    assert {name: figures[name] for name in ("rows", "picked", "ties", "failed")} == {
        "rows": 7, "picked": 5, "ties": 1, "failed": 2,
    }  # fmt: skip
    assert figures["errors"] == {"blank_completion": 2, "missing_field": 1, "over_length": 2}
    # Rewards are (characters - 1) / 2; a row weighs 1 whatever its completions.
    assert figures["reward_best"] == pytest.approx((1.5 + 0.5 + 1.0 + 1.0 + 0.5) / 5)
    assert figures["reward_mean"] == pytest.approx((1.0 + 0.5 + 0.5 + 0.5 + 1 / 3) / 5)
    kl = {n: math.log(n) - (n - 1) / n for n in (1, 2, 3)}
    assert figures["kl"] == pytest.approx((kl[3] + kl[1] + kl[2] + kl[2] + kl[3]) / 5)


def test_ties_are_drawn_by_the_row_and_the_seed_and_never_by_position(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completions": ["ab", "cd", "ef"]} for i in range(600)]
    picks = [[line["best"] for line in run(tmp_path, *rows, seed=seed)[1]] for seed in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]
    for count in Counter(picks[0]).values():
        assert abs(count - 200) < 4 * math.sqrt(600 * 2 / 9)  # four standard deviations of a fair draw


def test_n_draws_that_many_and_scores_no_more(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completions": ["x" * k for k in (1, 2, 3, 4, 5)]} for i in range(400)]
    figures, lines = run(tmp_path, *rows, n=2)
    for line in lines:
        drawn = [k for k, reward in enumerate(line["rewards"]) if reward is not None]
        assert sorted(draw(line["row_id"], 5, 0)[:2]) == drawn
        assert line["best"] == max(drawn)
    # Of 2 of 1..5 the larger is 4 on average, its standard deviation 1.
    characters = 2 * figures["reward_best"] + 1
    assert characters == pytest.approx(best_of_n([[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5]], [2])[0].true, abs=4 / 20)
    assert figures["kl"] == pytest.approx(math.log(2) - 0.5)
    all_of_few, _ = run(tmp_path, *ROWS, n=9)
    assert all_of_few == run(tmp_path, *ROWS)[0]


def test_nothing_to_pick_from_is_no_figure_and_a_missing_file_leaves_none(tmp_path: Path) -> None:
    figures, _ = run(tmp_path, {"prompt": "nothing"})
    assert (figures["picked"], figures["reward_best"], figures["reward_mean"], figures["kl"]) == (0, None, None, None)
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        best_of_n_file(by_length, str(tmp_path / "missing.jsonl"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
