"""Run a function on several ranks: processes of their own joined by gloo. Used by suites of what ranks agree on.

The ranks are forked from one server that has imported torch, transformers and deepspeed and done nothing else: that
import takes longer than most of what ranks are tried with.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# What a run imports sooner or later. A name that has gone costs time, no more: the server passes over it.
PRELOADED = (
    "rmray.training.worker",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "torch.utils.tensorboard",
    "transformers.integrations.deepspeed",
    "transformers.models.qwen3.modeling_qwen3",
)
RANK_SETTINGS = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120.0) -> list[Any]:
    """`function(rank, world_size, *args)` in `world_size` fresh processes, one thread each; their answers by rank.

    function: at module level of an importable module. The processes have a gloo group, this process's environment
    and DS_ACCELERATOR=cpu. Raises AssertionError with the tracebacks of the ranks that failed, or where they take
    longer than `timeout_s`; no rank is left behind.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with TemporaryDirectory() as directory:
        ranks = [
            context.Process(
                target=_run_rank,
                args=(function, rank, world_size, directory, dict(os.environ), args),
                daemon=True,
            )
            for rank in range(world_size)
        ]
        deadline = time.monotonic() + timeout_s
        try:
            _start(ranks)
            _join(ranks, deadline)
        finally:
            for process in ranks:
                if process.pid is not None:
                    process.kill()
                    process.join()
        faults = [path.read_text() for path in sorted(Path(directory).glob("fault-*"))]
        answers = [Path(directory, f"answer-{rank}") for rank in range(world_size)]
        late = [rank for rank, path in enumerate(answers) if not path.exists()]
        if faults or late:
            raise AssertionError("\n".join([f"no answer from ranks {late} in {timeout_s} s", *faults]))
        return [pickle.loads(path.read_bytes()) for path in answers]


def _start(ranks: list[Any]) -> None:
    """The first one starts the server, which needs the settings before it imports anything."""
    before = dict(os.environ)
    os.environ.update(RANK_SETTINGS)
    try:
        for process in ranks:
            process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _join(ranks: list[Any], deadline: float) -> None:
    """Wait for all; once one has failed, the others (stuck in a collective) get three more seconds."""
    while any(process.is_alive() for process in ranks) and time.monotonic() < deadline:
        if any(process.exitcode for process in ranks):
            deadline = min(deadline, time.monotonic() + 3.0)
        for process in ranks:
            process.join(timeout=0.05)


def _run_rank(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    directory: str,
    environment: Mapping[str, str],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(
        environment,
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        **RANK_SETTINGS,
    )
    try:
        import torch

        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{directory}/store", rank=rank, world_size=world_size
        )
        answer = function(rank, world_size, *args)
        temporary = Path(directory, f"unfinished-{rank}")
        temporary.write_bytes(pickle.dumps(answer))
        temporary.rename(Path(directory, f"answer-{rank}"))
    except BaseException:
        Path(directory, f"fault-{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
