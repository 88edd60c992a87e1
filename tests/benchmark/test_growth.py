"""Cells of growth at sizes of seconds: both rows compute what they should, lost cells are told, figures are drawn."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from rmray.benchmark.growth import (
    GrowthCell,
    GrowthReport,
    GrowthSettings,
    RowFigures,
    plan_share,
    run_growth,
)
from rmray.benchmark.growth_data import DataCell, DataSettings, MemoryOfChildren
from rmray.benchmark.growth_sweeps import QUICK_SWEEPS, SWEEPS, Point
from rmray.benchmark.plots_growth import plot_growth, print_growth
from rmray.benchmark.workloads import Workload, make_groups

SETTINGS = GrowthSettings(rounds=1, data=DataSettings(rows=(70,), prepare=False))


def cell_of(packed_s: float, padded_s: float, kind: str = "train") -> GrowthCell:
    packed, padded = RowFigures(packed_s, 100, 2**20), RowFigures(padded_s, 150, None)
    return GrowthCell("K", kind, 4, "K 4", "1m", 10, 6.0, 3.0, 4, 2, packed, padded)


@pytest.fixture(scope="module")
def report() -> GrowthReport:
    points = (Point(1, Workload("K 1", 12, 4, 1), "1m", 2), Point(3, Workload("K 3", 12, 4, 3), "1m", 2))
    return run_growth(SETTINGS, sweeps={"K": points})


def test_a_cell_has_both_rows_and_pairs_are_trained_on(report):
    assert [(cell.label, cell.kind) for cell in report.cells] == [("K 1", "score"), ("K 3", "train"), ("K 3", "score")]
    groups = make_groups(Workload("K 3", 12, 4, 3), 2, 4000, 0)
    for cell in report.cells[1:]:
        assert cell.packed.tokens == sum(group.num_tokens for group in groups)
        assert cell.padded.tokens == 6 * max(group.max_path_len for group in groups)
        assert cell.token_ratio > 1
        assert min(cell.packed.seconds, cell.padded.seconds) > 0
        assert cell.prompt_tokens == np.mean([len(group.prefix) for group in groups])


def test_a_data_set_is_planned_and_what_is_left_out_is_noted(report):
    (size,) = report.data
    assert (size.num_rows, size.prepare_s) == (70, None)
    assert size.plan_s > 0
    assert "preparing was left out" in report.notes[0]


def test_shares_keep_to_the_budget_that_the_forward_counts():
    groups = make_groups(Workload("", 40, 10, 2), 6, 100, 0)
    for packed in (True, False):
        share = plan_share(groups, packed=packed, max_micro_batch_tokens=300)
        assert sum(len(rows) for rows in share.micro_batches) == len(groups) == share.num_comparisons
        assert len(share.micro_batches) > 1
        for rows in (rows for rows in share.micro_batches if len(rows) > 1):
            longest = max(row.group.max_path_len for row in rows)
            tokens = sum(row.group.num_tokens for row in rows) if packed else 2 * len(rows) * longest
            assert tokens <= 300


def test_a_cell_that_is_slower_is_lost_and_told_so(capsys, tmp_path):
    won, lost = cell_of(1.0, 3.0), cell_of(2.0, 1.5, "score")
    assert (won.speed_up, won.lost, lost.speed_up, lost.lost) == (3.0, False, 0.75, True)
    report = GrowthReport(SETTINGS, {}, (won, lost), (DataCell(70, 1.5, 2**20, 0.5, None),), ("no Ray",))
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [cell["lost"] for cell in written["cells"]] == [False, True]
    print_growth(report)
    told = capsys.readouterr().out
    assert told.count("LOST") == 1
    assert "0.75x LOST" in told
    pytest.importorskip("matplotlib")
    paths = plot_growth(report, tmp_path)
    assert [path.name for path in paths] == ["growth-time.png", "growth-memory.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_every_sweep_has_a_quick_one_and_a_prompt_share_without_a_prompt():
    assert SWEEPS.keys() == QUICK_SWEEPS.keys()
    assert SWEEPS["prompt share"][0].workload.prompt_mean <= 1  # where there is nothing to share


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_of_children_is_seen():
    with MemoryOfChildren() as alone:
        pass
    with MemoryOfChildren() as watched:
        # It ends when it has been looked at: its stdin is closed then.
        held = "import sys; block = bytearray(300 * 2**20); print(flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            while watched.peak_bytes < alone.peak_bytes + 250 * 2**20 and child.poll() is None:
                pass
            child.stdin.close()
    assert watched.peak_bytes >= alone.peak_bytes + 250 * 2**20
