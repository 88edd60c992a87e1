"""Plan chunks of consecutive steps: which rank gets which rows. No Ray. Called by `stream`, and by loops without Ray.

A chunk's rows are read from the windows they lie in and each of its steps is balanced over the ranks. Memory is bounded
by a few windows and one chunk, whatever the size of the set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rmray.data.order import Int64, StepCount, WindowOrder, WindowSequence, hash_row_ids, order_window, order_windows
from rmray.data.packing import ATTENDED_PER_TOKEN, Shapes, join_shapes, measure_shapes, plan_step
from rmray.data.prepared import ROW_COLUMNS, Row, Split, Window, load_manifest, rows_from_table
from rmray.data.shares import StepFacts, StepShare, decode_share, encode_share
from rmray.errors import DataError

STEPS_PER_CHUNK = 16
CACHED_WINDOWS = 3  # the two that a step straddles, and one more


@dataclass(frozen=True, slots=True)
class StepSource:
    """All that decides the batches of a run. The world size and the step to begin with are no part of it.

    prepared_dir: a prepared set that every node sees. global_batch_size: comparisons per step, over all workers.
    max_micro_batch_tokens: computed tokens of one forward of one worker. max_steps: cuts the run short. shared_prefix:
    False where the forward pads: then a prompt is computed once for each of its completions, and counted so.
    attended_per_token: what attention costs on this model (see `packing`); it decides the balance alone.
    """

    prepared_dir: str
    seed: int
    global_batch_size: int
    max_micro_batch_tokens: int
    epochs: int = 1
    max_steps: int | None = None
    shared_prefix: bool = True
    attended_per_token: int = ATTENDED_PER_TOKEN


def count_steps(source: StepSource) -> StepCount:
    """How many steps the run has. Raises DataError for a set without rows."""
    return StepCount(_training_split(source).num_rows, source.global_batch_size, source.epochs, source.max_steps)


def chunk_bounds(first_step: int, num_steps: int) -> list[tuple[int, int]]:
    """[first, stop) steps of the chunks from `first_step` to the run's end; the last one may be shorter."""
    return [(step, min(step + STEPS_PER_CHUNK, num_steps)) for step in range(first_step, num_steps, STEPS_PER_CHUNK)]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some rows of the set. steps_N: the step of the run that each belongs to, never falling."""

    table: pa.Table
    shapes: Shapes
    steps_N: Int64


@dataclass(frozen=True, slots=True)
class _OrderedWindow:
    """A window in memory, with its shapes and its order in one epoch."""

    table: pa.Table
    shapes: Shapes
    order: WindowOrder


class ChunkPlanner:
    """Plans any chunk of a run; remembers the few windows it read last. Raises DataError for a set without rows."""

    def __init__(self, source: StepSource) -> None:
        self._source = source
        self._split = _training_split(source)
        self._steps = count_steps(source)
        self._sequence_of = lru_cache(maxsize=2)(self._order_windows)
        self._window_of = lru_cache(maxsize=CACHED_WINDOWS)(self._read_window)

    def plan(self, first_step: int, stop_step: int, *, world_size: int) -> Iterator[bytes]:
        """The payloads (see `shares`) of steps [first_step, stop_step) of the run, rank after rank."""
        rows = self._read_steps(first_step, stop_step)
        bounds = np.searchsorted(rows.steps_N, np.arange(first_step, stop_step + 1)).tolist()
        slices = [slice(low, high) for low, high in pairwise(bounds)]
        plans = [
            plan_step(
                rows.shapes.take(part),
                world_size=world_size,
                max_micro_batch_tokens=self._source.max_micro_batch_tokens,
                attended_per_token=self._source.attended_per_token,
            )
            for part in slices
        ]
        row_ids = rows.table["row_id"].to_pylist()
        facts = [
            StepFacts(
                step=step,
                epoch=self._steps.locate(step)[0],
                row_ids_hash=hash_row_ids(row_ids[part]),
                num_comparisons=part.stop - part.start,
                num_tokens=int(rows.shapes.tokens[part].sum()),
                num_micro_batches=plan.num_micro_batches,
            )
            for step, part, plan in zip(range(first_step, stop_step), slices, plans, strict=True)
        ]
        micro_batch_N = np.concatenate([plan.micro_batch_N for plan in plans])
        table = rows.table.append_column("step", pa.array(rows.steps_N))
        table = table.append_column("micro_batch", pa.array(micro_batch_N))
        for rank in range(world_size):
            mine = [part.start + plan.share(rank) for part, plan in zip(slices, plans, strict=True)]
            yield encode_share(table.take(np.concatenate(mine)), facts, rank=rank, world_size=world_size)

    def _read_steps(self, first_step: int, stop_step: int) -> _Rows:
        """All rows of some steps, step after step."""
        batch_size = self._source.global_batch_size
        parts: list[_Rows] = []
        while first_step < stop_step:
            epoch, first = self._steps.locate(first_step)
            epoch_start = first_step - first
            stop = min(stop_step - epoch_start, self._steps.steps_per_epoch)
            for place in self._sequence_of(epoch).overlapping(first * batch_size, stop * batch_size):
                window = self._window_of(epoch, place)
                part = window.order.slice_of(first, stop)
                rows_N = window.order.rows_N[part]
                steps_N = epoch_start + window.order.steps_N[part]
                parts.append(_Rows(window.table.take(rows_N), window.shapes.take(rows_N), steps_N))
            first_step = epoch_start + stop
        return _Rows(
            pa.concat_tables([part.table for part in parts]).combine_chunks(),
            join_shapes([part.shapes for part in parts]),
            np.concatenate([part.steps_N for part in parts]),
        )

    def _order_windows(self, epoch: int) -> WindowSequence:
        window_rows_W = np.array([window.num_rows for window in self._split.windows], dtype=np.int64)
        return order_windows(window_rows_W, seed=self._source.seed, epoch=epoch)

    def _read_window(self, epoch: int, place: int) -> _OrderedWindow:
        """The window at one place of an epoch's sequence."""
        sequence = self._sequence_of(epoch)
        window = int(sequence.windows_W[place])
        table = _read_table(Path(self._source.prepared_dir), self._split.windows[window])
        order = order_window(
            table["prompt_key"].to_numpy(),
            seed=self._source.seed,
            epoch=epoch,
            window=window,
            first_position=int(sequence.starts_W1[place]),
            global_batch_size=self._source.global_batch_size,
        )
        return _OrderedWindow(table, _shapes_of(table, self._source.shared_prefix), order)


def local_steps(source: StepSource, *, rank: int = 0, world_size: int = 1, start_step: int = 0) -> Iterator[StepShare]:
    """The shares of one rank from `start_step` to the run's end, planned in this process.

    They equal what the same rank gets through Ray. Raises DataError for a set without rows.
    """
    planner = ChunkPlanner(source)
    for first, stop in chunk_bounds(start_step, count_steps(source).num_steps):
        payloads = planner.plan(first, stop, world_size=world_size)
        payload = next(islice(payloads, rank, None))
        yield from decode_share(payload, rank=rank, world_size=world_size, next_step=first)


def eval_shares(
    prepared_dir: str,
    *,
    world_size: int,
    rank: int,
    max_micro_batch_tokens: int,
    max_comparisons: int | None = None,
    shared_prefix: bool = True,
    attended_per_token: int = ATTENDED_PER_TOKEN,
) -> Iterator[tuple[Row, ...]]:
    """The held-out micro-batches of one rank, as many as on every other rank, some perhaps empty.

    Every held-out comparison (or the first `max_comparisons` of the set's hashed layout: a fixed, arbitrary sample)
    goes to exactly one rank. Each rank reads the windows itself, one at a time. shared_prefix, attended_per_token: as
    in StepSource. Needs no Ray; yields nothing where nothing is held out.
    """
    directory = Path(prepared_dir)
    held_out = load_manifest(directory).eval
    left = held_out.num_rows if max_comparisons is None else max_comparisons
    for window in held_out.windows:
        table = _read_table(directory, window).slice(0, left)
        left -= table.num_rows
        shapes = _shapes_of(table, shared_prefix)
        plan = plan_step(
            shapes,
            world_size=world_size,
            max_micro_batch_tokens=max_micro_batch_tokens,
            attended_per_token=attended_per_token,
        )
        for micro_batch in plan.micro_batches(rank):
            yield tuple(rows_from_table(table.take(np.array(micro_batch, dtype=np.int64))))
        if not left:
            return


def _training_split(source: StepSource) -> Split:
    split = load_manifest(Path(source.prepared_dir)).train
    if not split.num_rows:
        raise DataError(
            "the prepared set has no row to train on",
            where=source.prepared_dir,
            next_step="see the counts that `rmray prepare` prints, and the set's quarantine.jsonl",
        )
    return split


def _read_table(directory: Path, window: Window) -> pa.Table:
    """A window's rows in one piece, which makes taking some of them cheap."""
    try:
        table = pq.read_table(directory / window.path, schema=ROW_COLUMNS).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            "a window of the prepared set is missing or damaged",
            where=str(directory / window.path),
            why=str(error),
            next_step="run `rmray prepare` again, into storage that every node sees",
        ) from error
    if table.num_rows != window.num_rows:
        raise DataError(
            f"the window holds {table.num_rows} rows, its manifest says {window.num_rows}",
            where=str(directory / window.path),
            why="the order of a run is computed from the manifest, so the set must not change",
            next_step="run `rmray prepare` again",
        )
    return table


def _shapes_of(table: pa.Table, shared_prefix: bool) -> Shapes:
    """Shapes of all rows of a table, from the lengths alone."""
    suffixes = table["suffixes"]
    return measure_shapes(
        pc.list_value_length(table["prefix"]).to_numpy(),
        pc.list_value_length(pc.list_flatten(suffixes)).to_numpy(),
        pc.list_value_length(suffixes).to_numpy(),
        shared_prefix=shared_prefix,
    )
