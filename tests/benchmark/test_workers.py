"""The arithmetic of `benchmark workers` on hand-made metrics lines, and that the bare loop trains as it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rmray.benchmark.conversations import PAIRS_FILE, write_conversations
from rmray.benchmark.equal import UnequalError
from rmray.benchmark.workers import BARE, MANY, ONE, WorkersSettings, print_workers, run_workers, summarise
from rmray.errors import ConfigError

SETTINGS = WorkersSettings(num_steps=4, warm_steps=1, rounds=3, global_batch_size=8)


def lines(*seconds: float, loss: float = 0.7, hashes: str = "abcd") -> list[dict[str, Any]]:
    return [
        {"step": i, "seconds": s, "pairs": 8, "tokens": 80, "row_ids_hash": hashes[i], "loss": loss}
        for i, s in enumerate(seconds)
    ]


def test_each_steps_median_over_the_rounds_counts_and_warm_steps_do_not():
    # Medians of steps 1, 2 and 3: 1, 2 and 3 seconds, though no round took 6 in all.
    runs = {
        BARE: [lines(99, 1, 2, 9), lines(99, 1, 7, 3), lines(99, 5, 2, 3)],
        ONE: [lines(99, 2, 2, 2)] * 3,
        MANY: [lines(99, 1, 1, 1)] * 3,
    }
    report = summarise(SETTINGS, runs, {})
    bare, one, many = report.rows
    assert bare.pairs_per_s == 24 / 6
    assert bare.of_rounds == (24 / 12, 24 / 11, 24 / 10)
    assert (bare.step_s, one.step_s) == (2, 2)
    assert (report.num_pairs, report.num_tokens) == (24, 240)
    assert report.one_to_bare == pytest.approx(1.0)
    assert report.many_to_one == pytest.approx(2.0)
    assert [(r.num_workers, r.cpus_each) for r in (bare, one, many)] == [(1, 2), (1, 2), (2, 1)]


def test_rows_that_were_left_out_have_no_ratio():
    report = summarise(SETTINGS, {ONE: [lines(9, 1, 1, 1)], BARE: [lines(9, 2, 2, 2)]}, {})
    assert report.one_to_bare == 2
    assert report.many_to_one is None


@pytest.mark.parametrize(
    ("other", "said"),
    [({"hashes": "abxd"}, "other rows"), ({"loss": 0.7 * 1.002}, "loss differs"), ({"loss": float("nan")}, "loss")],
)
def test_rows_that_did_not_train_alike_have_no_figures(other, said):
    with pytest.raises(UnequalError, match=said):
        summarise(SETTINGS, {BARE: [lines(1, 1, 1, 1)], ONE: [lines(1, 1, 1, 1, **other)]}, {})


def test_losses_may_differ_by_rounding():
    summarise(SETTINGS, {BARE: [lines(1, 1, 1, 1)], ONE: [lines(1, 1, 1, 1, loss=0.7 * 1.0005)]}, {})


def test_settings_without_a_steady_step_are_refused():
    with pytest.raises(ConfigError, match="no step is left"):
        run_workers(WorkersSettings(num_steps=3, warm_steps=3))


def test_conversations_are_multi_turn_and_end_as_the_town_has_them(tmp_path):
    rows = write_conversations(tmp_path, num_pairs=200, seed=3)
    again = write_conversations(tmp_path / "again", num_pairs=200, seed=3)
    assert rows == again
    assert len(rows) == 200
    assert [json.loads(line) for line in (tmp_path / PAIRS_FILE).read_text().splitlines()] == rows
    assert 4 < sum(len(row["prompt"]) // 2 for row in rows) / len(rows) < 8
    assert {message["role"] for row in rows for message in row["prompt"][1::2]} == {"assistant"}
    assert all(row["prompt"][-1]["role"] == "user" and row["chosen"] != row["rejected"] for row in rows)


def test_the_report_is_json_and_a_table(capsys):
    report = summarise(SETTINGS, {BARE: [lines(9, 1, 1, 1)], ONE: [lines(9, 2, 2, 2)], MANY: [lines(9, 1, 2, 1)]}, {})
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (written["kind"], written["one_to_bare"]) == ("workers", 0.5)
    print_workers(report)
    assert "one worker / bare loop: 0.500 (wanted: at least 0.90)" in capsys.readouterr().out
