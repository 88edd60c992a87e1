"""Whole runs without Ray, as worker jobs over generated prepared sets: what the loop suites start and compare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rmray.config.train import TrainConfig
from rmray.data.chunks import StepSource, count_steps, local_steps
from rmray.data.shares import StepShare
from rmray.training.auto import Choices
from rmray.training.checkpoint import CheckpointStore
from rmray.training.engine import Ranks
from rmray.training.job import WorkerJob
from rmray.training.metrics_log import read_metrics
from rmray.training.storage import checkpoint_place
from rmray.training.worker import run_worker

PAD_ID = 0
TIMING = ("seconds", "pairs_per_s", "comparisons_per_s", "tokens_per_s", "eval_seconds", "time")


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
        {
            "run": {"name": run_dir.name, "storage": str(run_dir.parent)},
            "data": {"train": ["generated"], "max_length": 64},
            "model": model,
            "optim": optim,
            **sections,
        }
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


class KilledError(Exception):
    """What ends a run before its time, on all ranks alike."""


def run_job(job: WorkerJob, *, deepspeed: bool = True, killed_at: int | None = None) -> list[dict[str, Any]]:
    """Run it on this rank, with shares planned in this process; the lines of its metrics file.

    killed_at: the step before which the run breaks off. `rows_of_steps` tells what it was trained on.
    """
    ranks = Ranks()
    store = CheckpointStore(checkpoint_place(job.config))
    newest = store.newest() if ranks.rank == 0 else None
    start_step = ranks.gather(newest.step if newest else 0)[0]
    checkpoint = store.open(start_step) if start_step else None

    def shares() -> Iterator[StepShare]:
        for share in local_steps(job.source, rank=ranks.rank, world_size=ranks.world_size, start_step=start_step):
            if share.step == killed_at:
                raise KilledError
            _record_rows(Path(job.run_dir), share, ranks)
            yield share

    with suppress(KilledError):
        run_worker(job, checkpoint, shares(), deepspeed=deepspeed)
    return list(read_metrics(Path(job.run_dir, "metrics.jsonl")))


def _record_rows(run_dir: Path, share: StepShare, ranks: Ranks) -> None:
    row_ids = [row.row_id for rows in share.micro_batches for row in rows]
    with (run_dir / f"rows-{ranks.rank}-of-{ranks.world_size}.jsonl").open("a") as file:
        file.write(json.dumps({"step": share.step, "row_ids": row_ids}) + "\n")


def rows_of_steps(run_dir: Path, world_size: int) -> dict[int, list[str]]:
    """The row ids of each step that a run went through on so many ranks, of all ranks together, sorted."""
    rows: dict[int, list[str]] = {}
    for rank in range(world_size):
        for line in read_metrics(run_dir / f"rows-{rank}-of-{world_size}.jsonl"):
            rows.setdefault(line["step"], []).extend(line["row_ids"])
    return {step: sorted(row_ids) for step, row_ids in rows.items()}


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def steps_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "eval_loss" not in line]


def final_weights(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step-{step:08d}" / "model" / "model.safetensors")


def saved_tensors(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights and moments."""
    files = (run_dir / "checkpoints" / f"step-{step:08d}").rglob("*.safetensors")
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distances(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> Iterator[tuple[str, float]]:
    """||got - want|| / ||want|| of all weights together and of each tensor."""
    for names in (list(want), *([name] for name in want)):
        a, b = (torch.cat([weights[name].double().flatten() for name in names]) for weights in (got, want))
        yield names[0] if len(names) == 1 else "all", float((a - b).norm() / b.norm())
