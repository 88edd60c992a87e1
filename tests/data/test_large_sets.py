"""Memory of planned steps is bounded by windows, whatever the size of the set: shown on sets larger than the object
store (with Ray, behind `chaos`) and on growing ones (the planner alone)."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rmray.data.chunks import ChunkPlanner, StepSource, chunk_bounds, count_steps
from rmray.data.prepared import load_manifest
from rmray.data.shares import decode_share
from tests.data.large_stream import NUM_RANKS, STORE_BYTES, source_of
from tests.data.prepared_sets import write_large_set

ROOT = Path(__file__).parents[2]
WINDOW_ROWS = 1024


@pytest.fixture
def whole_pool() -> Any:
    """Arrow's own count of what it holds, from a collected state on."""
    gc.collect()
    tracemalloc.start()
    yield lambda: pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


def test_a_larger_set_takes_the_planner_no_more_memory(tmp_path: Path, whole_pool: Any) -> None:
    """Eight windows, then 32 of the same size. What is held is looked at where it is most: at every payload."""
    window_bytes, peaks = 0, []
    for num_windows in (8, 32):
        directory = tmp_path / str(num_windows)
        window_bytes = write_large_set(directory, num_windows=num_windows, window_rows=128) // num_windows
        source = source_of(directory, global_batch_size=8)
        planner, before, peak = ChunkPlanner(source), whole_pool(), 0
        for first, stop in chunk_bounds(0, count_steps(source).num_steps):
            for _ in planner.plan(first, stop, world_size=2):
                peak = max(peak, whole_pool() - before)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + window_bytes / 2
    assert peaks[1] < 12 * window_bytes  # of 32; a chunk is one window here


@pytest.mark.chaos
def test_a_set_larger_than_the_object_store_is_streamed_whole_in_order_without_spilling(tmp_path: Path) -> None:
    """About 50 and 200 MiB through 80 MiB of object store, to two ranks that are slower than the planning."""
    peaks = {}
    for num_windows in (8, 32):
        directory = tmp_path / str(num_windows)
        set_bytes = write_large_set(directory, num_windows=num_windows, window_rows=WINDOW_ROWS)
        outcome = stream(directory, global_batch_size=64)
        assert not outcome["spilled"], outcome["store"]
        assert outcome["received"] == planned(source_of(directory, global_batch_size=64))
        everything = Counter(i for steps in outcome["received"] for step in steps for batch in step for i in batch)
        assert set(everything.values()) == {1}
        assert len(everything) == load_manifest(directory).train.num_rows == num_windows * WINDOW_ROWS
        peaks[num_windows] = outcome["peak_bytes"]
    window_bytes = set_bytes / 32
    assert set_bytes > 2 * STORE_BYTES
    # Four times the set: the workers that plan and the one that deals out take as much as before.
    for name in ("MapBatches", "SplitCoordinator"):
        assert peaks[32][name] < peaks[8][name] + 5 * window_bytes, peaks
    # Beyond an idle worker: the windows kept, and a chunk (here one window) in the making.
    assert peaks[32]["MapBatches"] < peaks[32]["_StatsActor"] + 20 * window_bytes, peaks


def stream(directory: Path, global_batch_size: int) -> dict[str, Any]:
    result = directory / "result.json"
    command = [sys.executable, "-m", "tests.data.large_stream", str(directory), str(global_batch_size), str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(result.read_text())


def planned(source: StepSource) -> list[list[list[list[str]]]]:
    """Row ids by rank, step and micro-batch."""
    planner = ChunkPlanner(source)
    ranks: list[list[list[list[str]]]] = [[] for _ in range(NUM_RANKS)]
    for first, stop in chunk_bounds(0, count_steps(source).num_steps):
        for rank, payload in enumerate(planner.plan(first, stop, world_size=NUM_RANKS)):
            shares = decode_share(payload, rank=rank, world_size=NUM_RANKS, next_step=first)
            ranks[rank] += [[[row.row_id for row in rows] for rows in share.micro_batches] for share in shares]
    return ranks
