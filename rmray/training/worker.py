"""One rank's whole run: load, resume, loop, checkpoints. Started by `trainer` on Ray workers; runs as well without Ray.

Every rank executes this alike. What differs, its share of each step, comes from the planner.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rmray.config.train import TrainConfig
from rmray.data.chunks import StepSource, eval_shares
from rmray.data.shares import StepShare
from rmray.data.tokenizer import choose_pad_token, load_tokenizer
from rmray.models.backbone import RewardBackbone, check_packed
from rmray.models.base import load_reward_model
from rmray.training.auto import Choices
from rmray.training.engine import DeepSpeedEngine, Engine, EngineSettings, Ranks, TorchEngine
from rmray.training.hooks import Evaluate, LogSteps, Report, SaveCheckpoints, StopWhenBroken
from rmray.training.loop import LoopSettings, run_loop
from rmray.training.metrics_log import MetricsLog
from rmray.training.state import Checkpoint, load_moments, newest_checkpoint, open_checkpoint
from rmray.training.step import Objective

CHECKPOINTS_DIR = "checkpoints"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJob:
    """What every rank is told. Paths are absolute and seen by all; config is resolved by `choices`, `source`, ...

    num_steps: of the whole run. pad_id: of the tokenizer. identity: what checkpoints remember the run by.
    """

    run_dir: str
    config: TrainConfig
    choices: Choices
    source: StepSource
    num_steps: int
    pad_id: int
    identity: dict[str, Any]


def run_worker(
    job: WorkerJob,
    shares: Callable[[int, Ranks], Iterable[StepShare]],
    *,
    deepspeed: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> None:
    """Train from the newest checkpoint, or from the base model, to the last step, which is evaluated and saved.

    shares: this rank's shares from a step on. deepspeed: False is the bare engine, for one process. report: called on
    every rank alike at every evaluation and checkpoint.
    """
    config, device = job.config, job.choices.device
    ranks = Ranks(device)
    torch.set_num_threads(config.workers.cpus)
    run_dir = Path(job.run_dir)
    checkpoint = _agree_on_start(run_dir / CHECKPOINTS_DIR, ranks)
    start_step = checkpoint.state.step if checkpoint else 0
    engine = _make_engine(job, checkpoint, deepspeed)
    check_packed(engine.backbone)
    if checkpoint:
        load_moments(engine, checkpoint)
    log = MetricsLog(run_dir, start_step=start_step) if ranks.rank == 0 else None
    objective = Objective(config.objective.name, config.objective.margin, config.objective.center)
    guard = StopWhenBroken(checkpoint.state.skipped_in_a_row if checkpoint else 0)
    held_out = partial(
        eval_shares,
        job.source.prepared_dir,
        world_size=ranks.world_size,
        rank=ranks.rank,
        max_micro_batch_tokens=job.source.max_micro_batch_tokens,
        max_comparisons=config.evaluate.max_comparisons,
    )
    evaluate = Evaluate(
        held_out, objective, every_steps=config.evaluate.every_steps, pooling=config.model.pooling, log=log
    )
    save = SaveCheckpoints(
        run_dir / CHECKPOINTS_DIR,
        guard,
        job.identity,
        every_steps=config.checkpoint.every_steps,
        keep=config.checkpoint.keep,
        save_model_extras=partial(_save_model_extras, engine.backbone.model, config.model.base),
    )
    tell = Report(report, evaluate, (config.evaluate.every_steps, config.checkpoint.every_steps))
    settings = LoopSettings(
        num_steps=job.num_steps,
        objective=objective,
        lr=config.optim.lr,
        warmup_ratio=config.optim.warmup_ratio,
        schedule=config.optim.schedule,
        pooling=config.model.pooling,
        seed=config.run.seed,
    )
    try:
        run_loop(engine, shares(start_step, ranks), settings, [LogSteps(log), guard, evaluate, save, tell])
    finally:
        if log:
            log.close()


def _agree_on_start(checkpoints: Path, ranks: Ranks) -> Checkpoint | None:
    """The newest sound checkpoint, or None; rank 0 looks, so that no two ranks can differ."""
    newest = newest_checkpoint(checkpoints, warn=logger.warning) if ranks.rank == 0 else None
    directory = ranks.gather(newest and str(newest.directory))[0]
    if directory is None or newest:
        return newest
    return open_checkpoint(Path(directory), verify=False)


def _make_engine(job: WorkerJob, checkpoint: Checkpoint | None, deepspeed: bool) -> Engine:
    config, choices = job.config, job.choices
    settings = EngineSettings(
        zero_stage=choices.zero_stage,
        weight_decay=config.optim.weight_decay,
        betas=config.optim.betas,
        eps=config.optim.eps,
        max_grad_norm=config.optim.max_grad_norm,
        bfloat16=choices.bfloat16,
    )

    def load(gather: Callable[[list[Any]], AbstractContextManager[Any]]) -> RewardBackbone:
        model = load_reward_model(
            checkpoint.model_dir if checkpoint else config.model.base,
            dtype=torch.float32,
            pad_id=job.pad_id,
            seed=config.run.seed,
            dropout=config.model.dropout,
            device=choices.device,
            gather=gather,
        )
        if choices.gradient_checkpointing:
            # Renamed within transformers 5; the old name warns.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        return RewardBackbone(model, pooling=config.model.pooling, packed=config.model.packed)

    engine_type = DeepSpeedEngine if deepspeed else TorchEngine
    return engine_type(load, settings, device=choices.device)


def _save_model_extras(model: Any, base: str, directory: Path) -> None:
    """Config and tokenizer beside the weights, so that plain transformers loads the directory."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    tokenizer = load_tokenizer(base)
    choose_pad_token(tokenizer, config.get_text_config().vocab_size)
    tokenizer.save_pretrained(directory)
