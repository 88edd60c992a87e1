"""Planned steps through Ray Data: what each rank receives is what it would have planned itself, at any speed.

Ranks are plain actors here, which hold every free CPU of the cluster, as Ray Train's workers may.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

from rmray.data.chunks import ChunkPlanner, StepSource, count_steps, local_steps
from rmray.data.shares import StepShare
from rmray.data.stream import SHARD_NAME, TrainingDataConfig, feed_steps, open_steps
from rmray.errors import DataError, TrainingError
from tests.data.prepared_sets import random_rows, write_prepared

GET_TIMEOUT_S = 240
MAX_RANKS = 3

Received = list[tuple[int, str, tuple[tuple[str, ...], ...]]]


@pytest.fixture(scope="module")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("prepared")
    write_prepared(directory, random_rows(700, seed=1, rows_per_prompt=2), window_rows=128)
    return str(directory)


@pytest.fixture(scope="module")
def consumers(ray_cluster: None) -> Iterator[list[Any]]:
    free = int(ray.available_resources().get("CPU", 0))
    others = MAX_RANKS - 1
    actors = [Consumer.options(num_cpus=cpus).remote() for cpus in (free - others, *[1] * others)]
    yield actors
    for actor in actors:
        ray.kill(actor)


@ray.remote
class Consumer:
    """A rank: reads its shard to the end, `delay_s` slower at each step."""

    def read(
        self, shard: Any, source: StepSource, rank: int, world_size: int, start_step: int, delay_s: float
    ) -> Received:
        received = []
        for share in read_steps(shard, source, rank=rank, world_size=world_size, start_step=start_step):
            received.append(summary(share))
            time.sleep(delay_s)  # the unequal speed of ranks is what is tested
        return received


class ListShard:
    """A shard that puts out given payloads, as Ray Data would."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._payloads = payloads

    def iter_batches(self, **options: Any) -> Iterator[pa.Table]:
        for payload in self._payloads:
            yield pa.table({"payload": pa.array([payload], pa.large_binary())})


def source_of(prepared_dir: str, **options: int) -> StepSource:
    return StepSource(prepared_dir, **{"seed": 5, "global_batch_size": 10, "max_micro_batch_tokens": 400, **options})


def summary(share: StepShare) -> tuple[int, str, tuple[tuple[str, ...], ...]]:
    return share.step, share.row_ids_hash, tuple(tuple(row.row_id for row in rows) for rows in share.micro_batches)


def read_steps(
    shard: Any, source: StepSource, *, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> Iterator[StepShare]:
    num_steps = count_steps(source).num_steps
    found, shares = open_steps(shard, rank=rank, world_size=world_size, num_steps=num_steps)
    assert found == start_step
    return shares


def read_all(
    consumers: Sequence[Any], shards: Sequence[ray.data.DataIterator], source: StepSource, start_step: int
) -> list[Received]:
    """What every rank received; odd ranks are slow."""
    pending = [
        consumers[rank].read.remote(shard, source, rank, len(shards), start_step, 0.002 * (rank % 2))
        for rank, shard in enumerate(shards)
    ]
    return ray.get(pending, timeout=GET_TIMEOUT_S)


def planned(source: StepSource, world_size: int, start_step: int) -> list[Received]:
    return [
        [summary(s) for s in local_steps(source, rank=rank, world_size=world_size, start_step=start_step)]
        for rank in range(world_size)
    ]


def test_ranks_of_different_speeds_receive_exactly_what_was_planned(prepared_dir, consumers, tmp_path):
    # 1,400 steps are 88 chunks, in blocks of two; then a restart in the middle of a chunk, on one worker more.
    source = source_of(prepared_dir, global_batch_size=1, epochs=2)
    checkpoint = tmp_path / "step"
    config = TrainingDataConfig(source, start_step=lambda: int(checkpoint.read_text()))
    datasets = {name: make() for name, make in TrainingDataConfig.datasets().items()}
    for world_size, start_step in [(2, 0), (3, 999)]:
        checkpoint.write_text(str(start_step))
        shards = config.configure(datasets, world_size, worker_handles=None, worker_node_ids=None)
        received = read_all(consumers, [shard[SHARD_NAME] for shard in shards], source, start_step)
        assert received == planned(source, world_size, start_step)


def test_a_finished_run_has_nothing_left_to_feed(prepared_dir, ray_cluster):
    source = source_of(prepared_dir)
    (shard,) = feed_steps(source, world_size=1, start_step=70)
    assert list(read_steps(shard, source, start_step=count_steps(source).num_steps)) == []


def test_the_drivers_other_datasets_keep_their_settings(prepared_dir, ray_cluster):
    def settings(context: ray.data.DataContext) -> tuple[object, ...]:
        options = context.execution_options
        return context.target_max_block_size, options.preserve_order, context.enable_progress_bars

    before = settings(ray.data.DataContext.get_current())
    feed_steps(source_of(prepared_dir), world_size=1)
    assert settings(ray.data.DataContext.get_current()) == settings(ray.data.range(1).context) == before


def test_a_fault_of_planning_reaches_the_rank_as_itself(tmp_path: Path, ray_cluster):
    manifest = write_prepared(tmp_path, random_rows(50), window_rows=10)
    source = source_of(str(tmp_path))
    (shard,) = feed_steps(source, world_size=1)
    (tmp_path / manifest.train.windows[0].path).unlink()
    with pytest.raises(DataError, match="window-00000"):
        list(read_steps(shard, source))


def test_shares_out_of_turn_are_refused(prepared_dir):
    source = source_of(prepared_dir, max_steps=6)
    planner = ChunkPlanner(source)
    first, second = (list(planner.plan(step, step + 3, world_size=2)) for step in (0, 3))
    refused = {
        "rank 1, expected 0": [first[0], second[1]],
        "step 0, expected 3": [first[0], first[0]],
        "up to step 3 of 6": [first[0]],
    }
    assert len(list(read_steps(ListShard([first[0], second[0]]), source, world_size=2))) == 6
    with pytest.raises(TrainingError, match="step 0, expected 6"):
        list(read_steps(ListShard([second[0], first[0]]), source, world_size=2, start_step=3))
    for message, payloads in refused.items():
        with pytest.raises(TrainingError, match=message):
            list(read_steps(ListShard(payloads), source, world_size=2))
