"""The planner's simulation: the set is whole, plans are measured by hand-worked figures, and every cell runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rmray.benchmark.plan import PlanReport, run_plan
from rmray.benchmark.plots_plan import plot_plan, print_plan
from rmray.benchmark.shapes import Shape
from rmray.benchmark.simulated_plan import (
    CellSettings,
    SimulatedRank,
    Stopwatch,
    measure_plan,
    plan_steps,
    simulated_rank,
)
from rmray.benchmark.simulated_set import MIXTURE, SimulatedSet
from rmray.data.chunks import StepSource, count_steps, local_steps
from rmray.data.order import order_windows
from rmray.data.packing import measure_shapes, plan_step

RANK = SimulatedRank(token_s=1.0, pair_s=0.0, attended_per_token=10**6)
CELLS = (CellSettings(32, 256, 2048), CellSettings(64, 256, 2048), CellSettings(64, 256, 2048, packed=False))


@pytest.fixture(scope="module")
def report() -> PlanReport:
    return run_plan(num_pairs=50_000, num_ranks=4, cells=CELLS, pairs_planned=2_000, task_pairs=512, model="5m")


def test_windows_hold_every_pair_once_and_are_drawn_alike_again():
    pairs = SimulatedSet(100_003, max_length=512, seed=3)
    rows_W = pairs.window_rows()
    assert rows_W.sum() == 100_003
    assert len(set(rows_W.tolist())) > 1
    one, again, other = (pairs.read_window(window, 500) for window in (1, 1, 2))
    assert np.array_equal(one.suffix_N2, again.suffix_N2)
    assert not np.array_equal(one.prompt_keys_N, other.prompt_keys_N)


def test_lengths_have_the_means_of_the_mixture_and_keep_to_the_longest_path():
    lengths = SimulatedSet(1, max_length=100_000).read_window(0, 60_000)
    assert lengths.prefix_N.mean() == pytest.approx(sum(s.share * s.prompt_mean for s in MIXTURE), rel=0.05)
    assert lengths.suffix_N2.mean() == pytest.approx(sum(s.share * s.completion_mean for s in MIXTURE), rel=0.05)
    assert len(np.unique(lengths.prompt_keys_N)) == pytest.approx(0.8 * 60_000, rel=0.02)
    short = SimulatedSet(1, max_length=300).read_window(0, 5_000)
    assert (short.prefix_N + short.suffix_N2.max(axis=1)).max() == 300
    assert min(short.prefix_N.min(), short.suffix_N2.min()) >= 1


def test_steps_are_those_that_a_run_would_take(tmp_path):
    pairs = SimulatedSet(9_000, max_length=40, seed=5)
    pairs.write(tmp_path / "set", vocab_size=100)
    source = StepSource(
        str(tmp_path / "set"), seed=5, global_batch_size=64, max_micro_batch_tokens=400, attended_per_token=7
    )
    rank = SimulatedRank(1.0, 0.0, attended_per_token=7)
    sequence = order_windows(pairs.window_rows(), seed=5, epoch=0)
    cell = CellSettings(64, 40, 400)
    figures = list(plan_steps(cell, pairs, sequence, num_ranks=2, num_pairs=9_000, rank=rank, watch=Stopwatch()))
    assert len(figures) == count_steps(source).num_steps - 1  # the last, smaller one is left out
    shares = [list(local_steps(source, rank=r, world_size=2)) for r in range(2)]
    for figure, *parts in zip(figures, *(ranks[:-1] for ranks in shares), strict=True):
        tokens = [sum(row.group.num_tokens for rows in part.micro_batches for row in rows) for part in parts]
        assert (figure.num_pairs, figure.computed_tokens) == (parts[0].num_comparisons, parts[0].num_tokens)
        assert (figure.slowest_s, figure.mean_s) == (max(tokens), sum(tokens) / 2)
        assert figure.num_micro_batches == len(parts[0].micro_batches)


def test_a_plan_of_ranks_that_wait_by_hand():
    # Ranks get 70 + 20 and 60 + 30; in forwards of 70 at most: 70 | 20 and 60 | 30.
    shapes = measure_shapes(np.zeros(4, int), np.array([70, 60, 30, 20]), np.ones(4, int))
    plan = plan_step(shapes, world_size=2, max_micro_batch_tokens=70)
    figures = measure_plan(plan, shapes, 180, 2, RANK)
    assert (figures.slowest_s, figures.mean_s, figures.dearest_s, figures.paced_s) == (90, 90, 70, 100)
    assert (figures.num_micro_batches, figures.computed_tokens) == (2, 180)


def test_a_plan_that_pads_computes_rectangles():
    # One rank, paths of 9, 5 and 4 tokens, all side by side: three rows of nine.
    shapes = measure_shapes(np.zeros(2, int), np.array([9, 5, 4]), np.array([2, 1]), shared_prefix=False)
    plan = plan_step(shapes, world_size=1, max_micro_batch_tokens=27)
    by_pairs = SimulatedRank(token_s=0.0, pair_s=1.0, attended_per_token=10)
    assert measure_plan(plan, shapes, 18, 1, RANK).computed_tokens == 27
    assert measure_plan(plan, shapes, 18, 1, by_pairs).slowest_s == 3 * 45


def test_a_simulated_rank_does_three_forwards_at_its_share_of_the_peak():
    shape = Shape(8, 2, 24, 2, 1, 4, 100)
    rank = simulated_rank(shape, peak_flops=1000.0, utilisation=0.5)
    weights = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 24  # q, k and v, o, the gated feed-forward
    assert rank.token_s == pytest.approx(3 * 2 * 2 * weights / 500)
    assert rank.pair_s == pytest.approx(3 * 2 * 4 * 8 / 500)


def test_every_cell_is_planned_and_told(report):
    assert [cell.pairs_per_rank for cell in report.cells] == [8, 16, 16]
    few, many, padded = report.cells
    for cell in report.cells:
        assert 0.9 * 2_000 <= cell.num_pairs <= 2_000
        assert cell.whole_epoch_s == pytest.approx(50_000 / cell.pairs_per_s)
        assert 1 <= cell.bound.mean <= cell.imbalance.mean + 1e-9
        assert cell.imbalance.mean <= min(cell.imbalance.max, cell.paced.mean + 1e-9)
    assert few.imbalance.mean > many.imbalance.mean
    assert (few.padding, many.padding) == (0, 0)
    assert padded.padding > 0.05
    assert many.tokens_saved > 1 > padded.tokens_saved
    assert report.task is not None
    assert (report.task.num_pairs, report.task.num_ranks, report.task.like_batch_size) == (512, 2, 64)


def test_the_report_is_json_a_table_and_a_picture(report, tmp_path, capsys):
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert written["kind"] == "plan"
    assert written["cells"][0]["settings"]["global_batch_size"] == 32
    print_plan(report)
    assert "50,000 pairs over 4 ranks" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    (path,) = plot_plan(report, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
