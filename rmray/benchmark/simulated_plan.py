"""Plan steps of a simulated set with a run's own functions, and measure the plans. Called by `plan`.

Legend: N pairs of a step, R ranks, B micro-batches of a rank.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.benchmark.flops import TRAINING_PASSES
from rmray.benchmark.shapes import Shape
from rmray.benchmark.simulated_set import SimulatedSet
from rmray.data.order import Int64, StepCount, WindowSequence, order_window
from rmray.data.packing import Shapes, StepPlan, attended_per_token_of, join_shapes, plan_step

CHUNK_PAIRS = 131_072  # planned in a row, at each place of the epoch
VOCAB_SIZE = 30_000

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CellSettings:
    """max_length: of a path. max_micro_batch_tokens: of a forward. packed: False plans for one that pads every path."""

    global_batch_size: int
    max_length: int = 4096
    max_micro_batch_tokens: int = 16_384
    packed: bool = True


@dataclass(frozen=True, slots=True)
class SimulatedRank:
    """Seconds of forward and backward for a token and for an attended (query, key) pair, on one rank."""

    token_s: float
    pair_s: float
    attended_per_token: int

    def seconds(self, tokens: npt.NDArray[Any], attended: npt.NDArray[Any]) -> Seconds:
        return np.asarray(tokens * self.token_s + attended * self.pair_s, dtype=np.float64)


def simulated_rank(shape: Shape, peak_flops: float, utilisation: float) -> SimulatedRank:
    """Operations as in `flops`, three forwards' worth for training, at a constant share of the peak."""
    heads = shape.num_attention_heads * shape.head_dim
    weights = shape.hidden_size * (2 * heads + 2 * shape.num_key_value_heads * shape.head_dim)
    weights += 3 * shape.hidden_size * shape.intermediate_size
    layers_per_s = peak_flops * utilisation / (TRAINING_PASSES * shape.num_hidden_layers)
    attended_per_token = attended_per_token_of(shape.hidden_size, shape.intermediate_size)
    return SimulatedRank(2 * weights / layers_per_s, 4 * heads / layers_per_s, attended_per_token)


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One planned step. mean_s, slowest_s: of ranks. dearest_s: of one pair. paced_s: of the step where all ranks wait
    for each other after every micro-batch. path_tokens: of all paths; computed_tokens: with padding, without what is
    shared."""

    num_pairs: int
    mean_s: float
    slowest_s: float
    dearest_s: float
    paced_s: float
    num_micro_batches: int
    path_tokens: int
    computed_tokens: int


@dataclass(slots=True)
class Stopwatch:
    """Seconds of one core by stage of planning; what other processes take meanwhile is not counted."""

    seconds: dict[str, float] = field(default_factory=lambda: {"order": 0.0, "measure": 0.0, "plan": 0.0})

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        start_s = time.thread_time()
        yield
        self.seconds[stage] += time.thread_time() - start_s


def plan_steps(
    cell: CellSettings,
    pairs: SimulatedSet,
    sequence: WindowSequence,
    *,
    num_ranks: int,
    num_pairs: int,
    rank: SimulatedRank,
    watch: Stopwatch,
) -> Iterator[StepFigures]:
    """Steps of about `num_pairs` pairs, in chunks of consecutive ones that lie evenly over the epoch. Its last step,
    which has what is left, is none of them."""
    batch_size = cell.global_batch_size
    steps = max(1, StepCount(pairs.num_pairs, batch_size).num_steps - 1)
    chunk_steps = min(steps, max(1, min(CHUNK_PAIRS, num_pairs) // batch_size))
    num_chunks = max(1, min(steps // chunk_steps, num_pairs // (chunk_steps * batch_size)))
    for chunk in range(num_chunks):
        first = chunk * (steps - chunk_steps) // max(1, num_chunks - 1)
        rows = _read_chunk(cell, pairs, sequence, first, first + chunk_steps, watch)
        bounds = np.searchsorted(rows.steps_N, np.arange(first, first + chunk_steps + 1)).tolist()
        for low, high in pairwise(bounds):
            with watch.of("plan"):
                shapes = rows.shapes.take(slice(low, high))
                plan = plan_step(
                    shapes,
                    world_size=num_ranks,
                    max_micro_batch_tokens=cell.max_micro_batch_tokens,
                    attended_per_token=rank.attended_per_token,
                )
            yield measure_plan(plan, shapes, int(rows.path_tokens_N[low:high].sum()), num_ranks, rank)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a chunk, step after step."""

    shapes: Shapes
    steps_N: Int64
    path_tokens_N: Int64


def _read_chunk(
    cell: CellSettings, pairs: SimulatedSet, sequence: WindowSequence, first: int, stop: int, watch: Stopwatch
) -> _Rows:
    """As `chunks` reads the rows of steps [first, stop), each window ordered and measured as it comes."""
    batch_size = cell.global_batch_size
    parts, steps, path_tokens = [], [], []
    for place in sequence.overlapping(first * batch_size, stop * batch_size):
        window, start = int(sequence.windows_W[place]), int(sequence.starts_W1[place])
        lengths = pairs.read_window(window, int(sequence.starts_W1[place + 1]) - start)
        with watch.of("order"):
            order = order_window(
                lengths.prompt_keys_N,
                seed=pairs.seed,
                epoch=0,
                window=window,
                first_position=start,
                global_batch_size=batch_size,
            )
            taken = order.slice_of(first, stop)
        with watch.of("measure"):
            parts.append(lengths.shapes(shared_prefix=cell.packed).take(order.rows_N[taken]))
        steps.append(order.steps_N[taken])
        path_tokens.append(lengths.path_tokens()[order.rows_N[taken]])
    with watch.of("measure"):
        shapes = join_shapes(parts)
    return _Rows(shapes, np.concatenate(steps), np.concatenate(path_tokens))


def measure_plan(plan: StepPlan, shapes: Shapes, path_tokens: int, num_ranks: int, rank: SimulatedRank) -> StepFigures:
    """What a plan would take. A micro-batch that pads is as wide as its widest pair, in every row of it."""
    num_cells = num_ranks * plan.num_micro_batches
    rank_N = np.repeat(np.arange(num_ranks), np.diff(plan.bounds_R1))
    cell_N = rank_N * plan.num_micro_batches + plan.micro_batch_N[plan.order_N]
    own = shapes.take(plan.order_N)
    rows_C = np.bincount(cell_N, weights=own.rows_N, minlength=num_cells)
    width_C = np.zeros(num_cells, dtype=np.int64)
    np.maximum.at(width_C, cell_N, own.width_N)
    tokens_C = rows_C * width_C
    attended_C = np.bincount(cell_N, weights=own.attended_N.astype(np.float64), minlength=num_cells)
    if width_C.max(initial=0) > 1:
        attended_C = np.asarray(rows_C * width_C * (width_C + 1) / 2, dtype=np.float64)
    seconds_RB = rank.seconds(tokens_C, attended_C).reshape(num_ranks, plan.num_micro_batches)
    seconds_R = seconds_RB.sum(axis=1)
    return StepFigures(
        num_pairs=len(plan.order_N),
        mean_s=float(seconds_R.mean()),
        slowest_s=float(seconds_R.max()),
        dearest_s=float(rank.seconds(shapes.tokens, shapes.attended_N).max()),
        paced_s=float(seconds_RB.max(axis=0).sum()),
        num_micro_batches=plan.num_micro_batches,
        path_tokens=path_tokens,
        computed_tokens=int(tokens_C.sum()),
    )


def time_task(pairs: SimulatedSet, *, num_ranks: int, max_micro_batch_tokens: int, attended_per_token: int) -> float:
    """Seconds of one core that planning the one chunk of a small set takes, which is written to disk first: windows
    read, rows hashed, and a payload made for every rank."""
    from rmray.data.chunks import STEPS_PER_CHUNK, ChunkPlanner, StepSource

    with TemporaryDirectory() as directory:
        pairs.write(Path(directory), vocab_size=VOCAB_SIZE)
        source = StepSource(
            directory,
            seed=pairs.seed,
            global_batch_size=-(-pairs.num_pairs // STEPS_PER_CHUNK),
            max_micro_batch_tokens=max_micro_batch_tokens,
            attended_per_token=attended_per_token,
        )
        planner, start_s = ChunkPlanner(source), time.thread_time()
        for _ in planner.plan(0, STEPS_PER_CHUNK, world_size=num_ranks):
            pass
        return time.thread_time() - start_s
