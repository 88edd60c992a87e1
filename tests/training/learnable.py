"""Sets that can be learnt in a few steps, and runs over them on the bare engine: what the suites of whole runs start.

Better answers are of other tokens than worse ones. Held-out labels that contradict make accuracy fall from its first
evaluation on; labels by chance leave nothing to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from rmray.data.chunks import local_steps
from rmray.data.prepared import Row
from rmray.models.tiny_base import build_tiny_base
from rmray.training.checkpoint import CheckpointStore
from rmray.training.events import read_events
from rmray.training.job import WorkerJob
from rmray.training.storage import checkpoint_place
from rmray.training.worker import run_worker
from tests.conftest import TINY_TEXTS
from tests.data.prepared_sets import random_rows, write_prepared
from tests.training.commands import curve
from tests.training.runs import make_job

STEPS = 40
HALF_OF_VOCABULARY = 100
HELD_OUT: dict[str, Any] = {"train": ["generated"], "max_length": 64, "holdout": 0.1}


def write_sets(directory: Path) -> None:
    """A base, and sets of 40 steps."""
    build_tiny_base(directory / "base", TINY_TEXTS * 4, layers=1, hidden=16, vocab_size=300)
    write_set(directory / "sound", swapped=0.0, held_out_swapped=0.0)
    write_set(directory / "contradicting", swapped=0.0, held_out_swapped=1.0)
    write_set(directory / "by-chance", swapped=0.5, held_out_swapped=0.5, held_out=600)
    write_prepared(directory / "nothing-held-out", random_rows(24))


def write_set(directory: Path, *, swapped: float, held_out_swapped: float, held_out: int = 40) -> None:
    """swapped: share of comparisons whose labels are the wrong way round."""
    train = separable(random_rows(6 * STEPS), swapped)
    write_prepared(
        directory,
        train,
        eval_rows=separable(random_rows(held_out, seed=1, file_hash="fedcba9876543210"), held_out_swapped),
    )


def separable(rows: Sequence[Row], swapped: float) -> list[Row]:
    """The better completion in tokens of the lower half of the vocabulary, the worse one in those of the upper half."""
    rng = np.random.default_rng(0)
    found = []
    for row in rows:
        better, worse = ((ids % (HALF_OF_VOCABULARY - 1) + 1).astype(np.int32) for ids in row.group.suffixes)
        pair = (better, worse + np.int32(HALF_OF_VOCABULARY))
        suffixes = pair[::-1] if rng.random() < swapped else pair
        found.append(replace(row, group=replace(row.group, suffixes=suffixes)))
    return found


def job_of(run_dir: Path, sets: Path, name: str = "sound", **sections: dict[str, Any]) -> WorkerJob:
    """Evaluates every other step and saves at every tenth, unless told otherwise."""
    filled: dict[str, Any] = {
        "data": HELD_OUT,
        "evaluate": {"every_steps": 2} | sections.pop("evaluate", {}),
        "checkpoint": {"every_steps": 10, "background": False} | sections.pop("checkpoint", {}),
    }
    return make_job(run_dir, sets / "base", sets / name, max_tokens=1000, **filled, **sections)


def run(job: WorkerJob, before: Mapping[int, Callable[[], Any]] | None = None) -> None:
    """The job from its newest checkpoint on. before: what is done before a step."""
    checkpoint = CheckpointStore(checkpoint_place(job.config)).newest()
    start_step = checkpoint.step if checkpoint else 0
    shares = local_steps(job.source, rank=0, world_size=1, start_step=start_step)
    steps = count(start_step)

    def asked() -> bool:  # before each step; its data are fetched earlier
        (before or {}).get(next(steps), lambda: None)()
        return False

    run_worker(job, checkpoint, shares, deepspeed=False, preempted=asked)


def store_of(job: WorkerJob) -> CheckpointStore:
    return CheckpointStore(checkpoint_place(job.config))


def accuracies(run_dir: Path) -> dict[int, float]:
    """Held out, by step."""
    return {line["step"]: line["eval_accuracy"] for line in curve(run_dir) if "eval_accuracy" in line}


def events_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "time"} for event in read_events(run_dir) if event["event"] == kind]


def saved_steps(run_dir: Path) -> list[int]:
    return [event["step"] for event in events_of(run_dir, "checkpoint")]
