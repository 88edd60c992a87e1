"""The Ray Data door of training: planned steps flow to the ranks of a Ray Train run. Called by `training.trainer`.

What goes into Ray Data is not rows but chunk numbers. A task plans a chunk and puts out one row per rank, whose payload
is that rank's share; the splitter deals the rows out in turn, one to each rank. That holds as long as each row is a
block of its own and blocks keep their order, so each rank checks what it received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

import pyarrow as pa
import ray.data
import ray.exceptions
from ray.train import DataConfig

from rmray.data.chunks import ChunkPlanner, StepSource, chunk_bounds, count_steps
from rmray.data.shares import StepShare, decode_share, first_step
from rmray.errors import RmrayError, TrainingError

SHARD_NAME = "train"  # what a worker asks `ray.train.get_dataset_shard` for

MAX_BLOCKS = 64  # of chunk numbers; each is put into the object store when a run starts
PLANNING_TASKS = 2  # at a time; one plans while the other's shares are read


class TrainingDataConfig(DataConfig):
    """Feeds planned steps to whatever number of workers a (re)started worker group has.

    source: what decides the batches. start_step: the step to begin with, or a function that finds it. The function is
    called at every start of the worker group, in an actor of the cluster, so it must see the storage the workers see.
    Use as `TorchTrainer(..., datasets=TrainingDataConfig.datasets(), dataset_config=TrainingDataConfig(source, ...))`.
    """

    def __init__(self, source: StepSource, *, start_step: int | Callable[[], int] = 0) -> None:
        super().__init__()
        self._source, self._start_step = source, start_step

    @staticmethod
    def datasets() -> dict[str, Callable[[], ray.data.Dataset]]:
        """A name for the shards. What they hold is made in `configure`, where the number of workers is known."""
        return {SHARD_NAME: _empty_dataset}

    def configure(
        self, datasets: dict[str, ray.data.Dataset], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, ray.data.DataIterator]]:
        """One shard per rank, by rank; Ray Train calls this for every worker group."""
        start_step = self._start_step() if callable(self._start_step) else self._start_step
        shards = feed_steps(self._source, world_size=world_size, start_step=start_step)
        return [dict.fromkeys(datasets, shard) for shard in shards]


def feed_steps(source: StepSource, *, world_size: int, start_step: int = 0) -> list[ray.data.DataIterator]:
    """The shards of all ranks, by rank, from `start_step` to the run's end; every rank must read its own meanwhile.

    Raises DataError for a prepared set that is incomplete or has no rows.
    """
    chunks = chunk_bounds(start_step, count_steps(source).num_steps)
    # By now Ray Train may hold every CPU for its workers. So the numbers are items, which are laid out in this process
    # (a range or a table takes tasks with a CPU), and planning asks for no CPU: it takes little of a worker's.
    numbers = ray.data.from_items(list(range(len(chunks))), override_num_blocks=min(MAX_BLOCKS, max(1, len(chunks))))

    def plan_chunks(numbers: pa.Table) -> Iterator[pa.Table]:
        for number in numbers["item"].to_pylist():
            for payload in _planner(source).plan(*chunks[number], world_size=world_size):
                yield pa.table({"payload": pa.array([payload], pa.large_binary())})

    shares = numbers.map_batches(
        plan_chunks,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(min(PLANNING_TASKS, max(1, len(chunks)))),
    )
    # A dataset has its own copy of the context: the driver's other datasets are not touched.
    shares.context.target_max_block_size = 1
    shares.context.execution_options.preserve_order = True
    shares.context.enable_progress_bars = False
    return shares.streaming_split(world_size, equal=False)


def open_steps(
    shard: ray.data.DataIterator, *, rank: int, world_size: int, num_steps: int
) -> tuple[int, Iterator[StepShare]]:
    """The step that the stream begins with, and this rank's shares from there to the last step, `num_steps` - 1.

    So the stream, which is planned in one place, tells the ranks where to begin; that all begin alike is for them to
    check. Raises TrainingError where a share is missing, early, another rank's or not what was planned; and whatever
    error the planning raised.
    """
    payloads = _payloads(shard)
    first = next(payloads, None)
    start_step = num_steps if first is None else first_step(first)
    waiting = [] if first is None else [first]
    return start_step, _check_steps(chain(waiting, payloads), rank, world_size, start_step, num_steps)


def _check_steps(
    payloads: Iterable[pa.Buffer], rank: int, world_size: int, start_step: int, num_steps: int
) -> Iterator[StepShare]:
    next_step = start_step
    for payload in payloads:
        for share in decode_share(payload, rank=rank, world_size=world_size, next_step=next_step):
            yield share
            next_step += 1
    if next_step != num_steps:
        raise TrainingError(
            f"rank {rank} received shares up to step {next_step} of {num_steps}",
            where=f"step {next_step}, rank {rank}",
            why="the stream of planned steps ended early or went on too long",
            next_step="resume from the last checkpoint; should it happen again, report it with the version of ray",
        )


def _payloads(shard: ray.data.DataIterator) -> Iterator[pa.Buffer]:
    try:
        blocks = shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)  # type: ignore[arg-type]
        for block in blocks:
            for payload in block["payload"]:
                yield payload.as_buffer()
    except ray.exceptions.RayTaskError as error:
        # Planning fails in a task; what a reader needs is the fault itself, not the road it took.
        if isinstance(error.cause, RmrayError):
            raise error.cause from error
        raise


@lru_cache(maxsize=1)
def _planner(source: StepSource) -> ChunkPlanner:
    """The planner that one worker process of Ray keeps between tasks, with its windows."""
    return ChunkPlanner(source)


def _empty_dataset() -> ray.data.Dataset:
    return ray.data.range(1)
