"""The plot of speed-ups."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmray.benchmark.plots import ideal_over_share, plot_speed_ups
from rmray.benchmark.report import Cell, Report, RowFigures
from rmray.benchmark.run import Subject, run_score
from rmray.benchmark.settings import ScoreSettings
from rmray.benchmark.workloads import GRID, WORKLOADS
from tests.benchmark.conftest import TINY

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


def test_without_matplotlib_the_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_peak: None
) -> None:
    monkeypatch.setattr("rmray.benchmark.run.SHAPES", {"tiny": TINY})
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    settings = ScoreSettings(threads=1, rows=("rmray", "one by one"), rounds=1, num_completions=4)
    told: list[str] = []
    report = run_score(Subject(models=["tiny"], workloads=["losing"]), settings, tmp_path, notify=told.append)
    assert len(report.cells) == 1
    assert "pip install" in told[-1]
    assert (tmp_path / "score.json").exists()
