"""A process of its own for `test_large_sets`: a small Ray streams one epoch of a prepared set to two slow ranks.

    python -m tests.data.large_stream PREPARED_DIR GLOBAL_BATCH_SIZE RESULT.json

The result: what each rank received, whether the object store spilled, and the most memory of its own that any process
of the cluster took beside the ranks: the planning workers and the coordinator that deals their payloads out.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.internal_api import memory_summary

from rmray.data.chunks import StepSource, count_steps
from rmray.data.stream import feed_steps, open_steps

STORE_BYTES = 80 * 2**20  # about the smallest that Ray allows
NUM_RANKS = 2
STEP_S = 0.03  # of a rank: slower than planning, so that what is planned piles up if it may
POLL_S = 0.02
GET_TIMEOUT_S = 400


@ray.remote(num_cpus=0)
class Rank:
    """Reads its shard to the end."""

    def read(self, shard: Any, source: StepSource, rank: int) -> list[list[list[str]]]:
        num_steps = count_steps(source).num_steps
        steps = []
        _, shares = open_steps(shard, rank=rank, world_size=NUM_RANKS, num_steps=num_steps)
        for share in shares:
            steps.append([[row.row_id for row in micro_batch] for micro_batch in share.micro_batches])
            time.sleep(STEP_S)  # a forward and a backward
        return steps


class MemoryWatch:
    """The most anonymous memory (not the object store's, nor files) of Ray's processes but the ranks, by their name."""

    def __init__(self) -> None:
        self.peak_bytes: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            for process in psutil.Process().children(recursive=True):
                try:
                    title = " ".join(process.cmdline())
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except (psutil.Error, OSError):
                    continue  # it has ended
                found = re.search(r"RssAnon:\s+(\d+) kB", status)
                if title.startswith("ray::") and not title.startswith("ray::Rank") and found:
                    name = re.split(r"[\s.(]", title.removeprefix("ray::"))[0]
                    self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), 1024 * int(found[1]))


def source_of(prepared_dir: str | Path, *, global_batch_size: int) -> StepSource:
    return StepSource(str(prepared_dir), seed=3, global_batch_size=global_batch_size, max_micro_batch_tokens=16 * 1536)


def main(prepared_dir: str, global_batch_size: str, result: str) -> None:
    source = source_of(prepared_dir, global_batch_size=int(global_batch_size))
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        logging_level="error",
    )
    with MemoryWatch() as watch:
        ranks = [Rank.remote() for _ in range(NUM_RANKS)]
        shards = feed_steps(source, world_size=NUM_RANKS)
        pending = [
            actor.read.remote(shard, source, rank)
            for rank, (actor, shard) in enumerate(zip(ranks, shards, strict=True))
        ]
        received = ray.get(pending, timeout=GET_TIMEOUT_S)
    store = memory_summary(stats_only=True)
    outcome = {"received": received, "peak_bytes": watch.peak_bytes, "spilled": "Spilled" in store, "store": store}
    Path(result).write_text(json.dumps(outcome))
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
