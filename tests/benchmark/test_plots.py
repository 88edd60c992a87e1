"""The plot of speed-ups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmray.benchmark.plots import ideal_over_share, plot_speed_ups
from rmray.benchmark.report import Cell, Report, RowFigures
from rmray.benchmark.workloads import GRID, WORKLOADS

ROW = RowFigures("rmray", 1.0, 0.9, 1.1, 8.0, 1.0, 100, 1.0, 1.0, 0.5, 0.5, None)
CELL = Cell("w", "5m", 5, 2.0, 0.5, "pairs", 8, 150, 100, 1.5, 1.4, 1e9, True, None, {}, (ROW,))


def test_the_ideal_curve_is_that_of_the_workloads() -> None:
    for workload in (*WORKLOADS.values(), *GRID):
        share = np.array(workload.prompt_share)
        assert ideal_over_share(share, workload.completions) == pytest.approx(workload.ideal)


def test_a_plot_needs_rows_to_compare(tmp_path: Path) -> None:
    alone = Report("train", {}, {}, (CELL,))
    assert plot_speed_ups(alone, tmp_path / "a.png") is None
    other = replace(ROW, name="trl random", speed_up=3.0)
    without_ours = Report("train", {}, {}, (replace(CELL, rows=(replace(other, speed_up=None),)),))
    assert plot_speed_ups(without_ours, tmp_path / "b.png") is None
    report = Report(
        "train", {}, {}, (replace(CELL, rows=(ROW, other)), replace(CELL, rows=(ROW, other), completions=8))
    )
    path = plot_speed_ups(report, tmp_path / "deep" / "c.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
