"""`benchmark accuracy`: the verdict by hand, and the whole of it at a size of seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmray.benchmark.accuracy import ROWS, compare, print_accuracy, run_accuracy
from rmray.benchmark.settings import TrainSettings


def test_the_difference_is_over_the_same_pairs() -> None:
    rng = np.random.default_rng(0)
    ours = rng.random((3, 400)) < 0.7
    assert compare(ours, ours, range(400)).agree
    same = compare(ours, ours, range(400))
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    better = np.array([[True, True, False, True]] * 2)
    worse = np.array([[True, False, False, False], [True, True, False, False]])
    assert compare(better, worse, range(4)).mean == pytest.approx((0 + 0.5 + 0 + 1) / 4)


def test_a_difference_beyond_chance_is_told() -> None:
    ours = np.ones((1, 200), dtype=bool)
    theirs = np.arange(200)[None] % 5 > 0  # a fifth is wrong
    told = compare(ours, theirs, range(200))
    assert told.mean == pytest.approx(0.2)
    assert told.low > 0.1
    assert not told.agree
    assert compare(theirs, ours, range(200)).high < -0.1


def test_both_trainers_learn_the_same_from_the_same_pairs(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(name: str, numbers: range) -> str:
        rows = [
            {"prompt": f"Question {i}: ", "chosen": "Thank you for asking.", "rejected": "The weather is wrong."}
            for i in numbers
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    settings = TrainSettings(threads=1, rows=ROWS, batch_pairs=4, lr=3e-3)
    told: list[str] = []
    report = run_accuracy(
        [write("train.jsonl", range(32))],
        [write("test.jsonl", range(100, 120))],
        base=str(tiny_base),
        settings=replace(settings, seed=5),
        num_seeds=2,
        epochs=1,
        max_length=100,
        output=tmp_path,
        notify=told.append,
    )
    print_accuracy(report)
    assert "they agree" in capsys.readouterr().out
    assert [(f.row, f.seed) for f in report.seeds] == [("rmray", 5), ("trl", 5), ("rmray", 6), ("trl", 6)]
    assert {f.accuracy for f in report.seeds} == {1.0}
    assert min(f.margin for f in report.seeds) > 0.3  # learned, on either side
    ours, theirs = report.seeds[0].margin, report.seeds[1].margin
    assert ours == pytest.approx(theirs, rel=0.3)  # in another order of the pairs
    assert report.difference is not None
    assert (report.num_train_pairs, report.num_eval_pairs, report.num_eval_prompts) == (32, 20, 20)
    assert json.loads((tmp_path / "accuracy.json").read_text())["accuracy"]["trl"][0] == 1.0
    assert len(told) == 4
