"""The planner at scale, by simulation on its own code: its rate, and how even its plans are. For `rmray benchmark`.

Windows and rows are ordered, measured and planned by the functions that a run uses; only the lengths are drawn instead
of read. The order of windows is made for the whole set. Steps are planned in chunks spread evenly over the epoch, as
many as `pairs_planned` says; what is told of the whole epoch is extrapolated from their rate.

That rate is of deciding alone. A planning task also reads Parquet windows and writes each rank's rows: `TaskFigures`
tells what it takes in all, on a small set on disk. Tasks run ahead of training, on any core of the cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmray.benchmark.shapes import SHAPES
from rmray.benchmark.simulated_plan import (
    CellSettings,
    SimulatedRank,
    StepFigures,
    Stopwatch,
    plan_steps,
    simulated_rank,
    time_task,
)
from rmray.benchmark.simulated_set import MIXTURE, SIGMA, SimulatedSet
from rmray.data.chunks import STEPS_PER_CHUNK
from rmray.data.order import WindowSequence, order_windows

NUM_PAIRS, NUM_RANKS = 100_000_000, 512
PAIRS_PLANNED = 4_000_000  # in each cell
TASK_PAIRS, TASK_PAIRS_PER_RANK = 16_384, 16
MODEL, PEAK_FLOPS, UTILISATION = "8b", 989e12, 0.4  # an H100 in bf16, and the share of it that training gets
MAX_IMBALANCE, MAX_PLANNING_SHARE = 1.03, 0.01
# From 4 pairs a rank to 32; then paths four times as long, which no plan can cut in two; then a forward that pads.
CELLS = (
    CellSettings(2048),
    CellSettings(4096),
    CellSettings(8192),
    CellSettings(16384),
    CellSettings(4096, 16_384, 32_768),
    CellSettings(8192, 16_384, 32_768),
    CellSettings(16384, 16_384, 32_768),
    CellSettings(8192, packed=False),
)
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the planned steps."""

    mean: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class PlanCell:
    """What planning came to for one batch size.

    imbalance: time of the slowest rank over the mean of all. bound: what no plan gets below, since a row is not cut in
    two: the dearest row over the mean of ranks, 1 at least. paced: time of the step over the mean of ranks where all
    ranks wait for each other after every micro-batch, as ZeRO 2 and 3 do. padding: share of computed tokens.
    tokens_saved: tokens of all paths over computed tokens. seconds: planning on one core, by stage. step_s: simulated,
    of the slowest rank; planning_share: of it. whole_epoch_s: planning all pairs on one core, extrapolated.
    """

    settings: CellSettings
    pairs_per_rank: float
    num_steps: int
    num_pairs: int
    seconds: dict[str, float]
    pairs_per_s: float
    whole_epoch_s: float
    imbalance: Spread
    bound: Spread
    paced: Spread
    micro_batches: float
    padding: float
    tokens_saved: float
    tokens_per_step: float
    step_s: float
    planning_share: float


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """A planning task in all, on one core: windows read, steps planned, a payload written for every rank.

    The set is small, so ranks are fewer; steps of a chunk and pairs of a rank are as many as in `like_batch_size`, and
    so is what a pair costs. share: of the simulated step of that size; as many cores as run tasks share it.
    """

    num_pairs: int
    num_ranks: int
    like_batch_size: int
    pairs_per_s: float
    share: float


@dataclass(frozen=True, slots=True)
class PlanReport:
    """order_s: of the windows of the whole set. *_bytes: peak of this process before and after planning; None where the
    system does not tell."""

    num_pairs: int
    num_ranks: int
    num_windows: int
    model: str
    peak_flops: float
    utilisation: float
    order_s: float
    cells: tuple[PlanCell, ...]
    start_bytes: int | None
    peak_bytes: int | None
    task: TaskFigures | None

    def to_json(self) -> dict[str, Any]:
        mixture = {"sigma": SIGMA, "sources": [asdict(source) for source in MIXTURE]}
        targets = {"imbalance": MAX_IMBALANCE, "planning_share": MAX_PLANNING_SHARE}
        return {"kind": "plan", "mixture": mixture, "targets": targets, **asdict(self)}


def run_plan(
    *,
    num_pairs: int = NUM_PAIRS,
    num_ranks: int = NUM_RANKS,
    cells: Sequence[CellSettings] = CELLS,
    pairs_planned: int = PAIRS_PLANNED,
    task_pairs: int = TASK_PAIRS,
    model: str = MODEL,
    peak_flops: float = PEAK_FLOPS,
    utilisation: float = UTILISATION,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> PlanReport:
    """Plan about `pairs_planned` of `num_pairs` pairs in each cell.

    task_pairs: of the set on disk; 0 leaves it out. model: a name of SHAPES, trained at `utilisation` of `peak_flops`
    on every rank. say: told what comes next.
    """
    start_bytes = _peak_bytes()
    rank = simulated_rank(SHAPES[model], peak_flops, utilisation)
    rows_W = SimulatedSet(num_pairs, cells[0].max_length, seed).window_rows()
    start_s = time.perf_counter()
    sequence = order_windows(rows_W, seed=seed, epoch=0)
    order_s = time.perf_counter() - start_s
    done = []
    for cell in cells:
        say(f"batches of {cell.global_batch_size:,} pairs, paths of at most {cell.max_length:,} tokens")
        pairs = SimulatedSet(num_pairs, cell.max_length, seed)
        done.append(_run_cell(cell, pairs, sequence, num_ranks=num_ranks, pairs_planned=pairs_planned, rank=rank))
    peak_bytes = _peak_bytes()
    task = None
    if task_pairs:
        say(f"{task_pairs:,} pairs from disk")
        like = min(done, key=lambda cell: abs(cell.pairs_per_rank - TASK_PAIRS_PER_RANK))
        task = _measure_task(SimulatedSet(task_pairs, like.settings.max_length, seed), like, rank)
    return PlanReport(
        num_pairs=num_pairs,
        num_ranks=num_ranks,
        num_windows=len(rows_W),
        model=model,
        peak_flops=peak_flops,
        utilisation=utilisation,
        order_s=order_s,
        cells=tuple(done),
        start_bytes=start_bytes,
        peak_bytes=peak_bytes,
        task=task,
    )


def _run_cell(
    cell: CellSettings,
    pairs: SimulatedSet,
    sequence: WindowSequence,
    *,
    num_ranks: int,
    pairs_planned: int,
    rank: SimulatedRank,
) -> PlanCell:
    watch = Stopwatch()
    steps = list(
        plan_steps(cell, pairs, sequence, num_ranks=num_ranks, num_pairs=pairs_planned, rank=rank, watch=watch)
    )
    return summarise(cell, steps, watch.seconds, num_ranks=num_ranks, num_pairs=pairs.num_pairs)


def summarise(
    cell: CellSettings, steps: Sequence[StepFigures], seconds: dict[str, float], *, num_ranks: int, num_pairs: int
) -> PlanCell:
    """Figures of the planned steps. seconds: that planning them took. num_pairs: of the whole set."""
    planned = sum(step.num_pairs for step in steps)
    planning_s = sum(seconds.values())
    path_tokens = sum(step.path_tokens for step in steps)
    computed = sum(step.computed_tokens for step in steps)
    step_s = float(np.mean([step.slowest_s for step in steps]))
    return PlanCell(
        settings=cell,
        pairs_per_rank=cell.global_batch_size / num_ranks,
        num_steps=len(steps),
        num_pairs=planned,
        seconds=seconds,
        pairs_per_s=planned / planning_s,
        whole_epoch_s=num_pairs / planned * planning_s,
        imbalance=_spread([step.slowest_s / step.mean_s for step in steps]),
        bound=_spread([max(1.0, step.dearest_s / step.mean_s) for step in steps]),
        paced=_spread([step.paced_s / step.mean_s for step in steps]),
        micro_batches=float(np.mean([step.num_micro_batches for step in steps])),
        padding=0.0 if cell.packed else 1 - path_tokens / computed,
        tokens_saved=path_tokens / computed,
        tokens_per_step=computed / len(steps),
        step_s=step_s,
        planning_share=planning_s / len(steps) / step_s,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.quantile(values, 0.99)), float(np.max(values)))


def _measure_task(pairs: SimulatedSet, like: PlanCell, rank: SimulatedRank) -> TaskFigures:
    num_ranks = max(1, round(pairs.num_pairs / STEPS_PER_CHUNK / like.pairs_per_rank))
    seconds = time_task(
        pairs,
        num_ranks=num_ranks,
        max_micro_batch_tokens=like.settings.max_micro_batch_tokens,
        attended_per_token=rank.attended_per_token,
    )
    batch_size, per_s = like.settings.global_batch_size, pairs.num_pairs / seconds
    return TaskFigures(pairs.num_pairs, num_ranks, batch_size, per_s, batch_size / per_s / like.step_s)


def _peak_bytes() -> int | None:
    """The most memory that this process has had so far."""
    if not STATUS.exists():
        return None
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
