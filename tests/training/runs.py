"""Whole runs without Ray, as worker jobs over generated prepared sets: what the loop suites start."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rmray.config.train import TrainConfig
from rmray.data.chunks import StepSource, count_steps, local_steps
from rmray.data.shares import StepShare
from rmray.training.auto import Choices
from rmray.training.engine import Ranks
from rmray.training.metrics_log import read_metrics
from rmray.training.worker import WorkerJob, run_worker

PAD_ID = 0


def make_job(
    run_dir: Path,
    base: Path,
    prepared_dir: Path,
    *,
    stage: int = 0,
    gradient_checkpointing: bool = False,
    bfloat16: bool = False,
    max_tokens: int = 90,
    **sections: dict[str, Any],
) -> WorkerJob:
    """A job on CPU; sections override the config. The run directory is made."""
    optim = {"lr": 1e-3, "global_batch_size": 6, "epochs": 1} | sections.pop("optim", {})
    model = {"base": str(base)} | sections.pop("model", {})
    config = TrainConfig.model_validate(
        {"data": {"train": ["generated"], "max_length": 64}, "model": model, "optim": optim, **sections}
    )
    source = StepSource(
        str(prepared_dir), config.run.seed, config.optim.global_batch_size, max_tokens, config.optim.epochs,
        config.optim.max_steps,
    )  # fmt: skip
    run_dir.mkdir(parents=True, exist_ok=True)
    return WorkerJob(
        run_dir=str(run_dir),
        config=config,
        choices=Choices("cpu", bfloat16, stage, gradient_checkpointing, max_tokens),
        source=source,
        num_steps=count_steps(source).num_steps,
        pad_id=PAD_ID,
        identity={"name": run_dir.name},
    )


def run_job(job: WorkerJob, *, deepspeed: bool = True) -> list[dict[str, Any]]:
    """Run it on this rank, with shares planned in this process; the lines of its metrics file."""

    def shares(start_step: int, ranks: Ranks) -> Iterable[StepShare]:
        return local_steps(job.source, rank=ranks.rank, world_size=ranks.world_size, start_step=start_step)

    run_worker(job, shares, deepspeed=deepspeed)
    return list(read_metrics(Path(job.run_dir, "metrics.jsonl")))
