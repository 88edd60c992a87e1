"""One rank's whole run: load, resume, loop, checkpoints. Started by `trainer` on Ray workers; runs as well without Ray.

Every rank executes this alike. What differs, its share of each step, comes from the planner.
"""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rmray.data.chunks import eval_shares
from rmray.data.prepared import Row
from rmray.data.shares import StepShare
from rmray.data.tokenizer import load_base_tokenizer
from rmray.models.backbone import RewardBackbone, check_packed
from rmray.models.memory import keep_freed_memory
from rmray.training.checkpoint import Checkpoint, CheckpointStore, CheckpointWriter
from rmray.training.early_stopping import StopEarly
from rmray.training.engine import DeepSpeedEngine, Engine, EngineSettings, Ranks, TorchEngine
from rmray.training.events import EventLog
from rmray.training.health import WatchHealth
from rmray.training.hooks import (
    Evaluate,
    HeedNotices,
    LogSteps,
    Remembers,
    SaveCheckpoints,
    StopWhenBroken,
)
from rmray.training.job import WorkerJob
from rmray.training.lock import still_held
from rmray.training.loop import Hook, LoopSettings, run_loop
from rmray.training.metrics_log import MetricsLog
from rmray.training.model import make_model
from rmray.training.notices import Notices
from rmray.training.objective import Objective
from rmray.training.schedule import num_warmup_steps
from rmray.training.storage import checkpoint_place
from rmray.training.warm_start import warnings
from rmray.training.watchdog import beating


def run_worker(
    job: WorkerJob,
    checkpoint: Checkpoint | None,
    shares: Iterable[StepShare],
    *,
    deepspeed: bool = True,
    beat: Callable[[str], None] = lambda doing: None,
    preempted: Callable[[], bool] = lambda: False,
) -> None:
    """Train from a checkpoint, or from the base model, to the last step, which is evaluated and saved.

    shares: this rank's, from the checkpoint's step on. deepspeed: False is the bare engine, for one process. beat: told
    that the run goes on, and what comes next. preempted: whether this rank's machine is to be taken away.
    """
    config, run_dir, ranks = job.config, Path(job.run_dir), Ranks(job.choices.device)
    torch.set_num_threads(config.workers.cpus)
    if ranks.device.type == "cpu":
        keep_freed_memory()
    engine = _make_engine(job, checkpoint, deepspeed)
    check_packed(engine.backbone)
    if checkpoint:
        checkpoint.load_moments(engine)
    memory = checkpoint.state.memory if checkpoint else {}
    first = ranks.rank == 0
    processes = ranks.gather({"host": platform.node(), "pid": os.getpid()})
    log = MetricsLog(run_dir, start_step=checkpoint.state.step if checkpoint else 0) if first else None
    events = EventLog(run_dir) if first else None
    for kind, message in warnings(config) if first and not checkpoint else ():
        _tell(events, kind, message, {})
    objective = Objective(**config.objective.model_dump() | {"aggregate": config.objective.score_aggregate})
    notices = Notices(run_dir, preempted=preempted)
    guard = StopWhenBroken(checkpoint.state.skipped_in_a_row if checkpoint else 0)
    evaluate = Evaluate(
        lambda: beating(_held_out(job, ranks), beat, "a held-out micro-batch"),
        objective,
        every_steps=config.evaluate.every_steps,
        pooling=config.pooling,
        log=log,
    )
    health = WatchHealth(
        evaluate,
        partial(_tell, events),
        num_steps=job.num_steps,
        warmup_steps=num_warmup_steps(job.num_steps, config.optim.warmup_ratio),
        memory=memory.get("health"),
        objective=objective.name,
    )
    remembering: dict[str, Remembers] = {"health": health}
    stop_early: list[Hook] = []
    if config.evaluate.patience is not None:
        stopper = StopEarly(evaluate, config.evaluate.patience, memory=memory.get("early_stopping"))
        remembering["early_stopping"] = stopper
        stop_early.append(stopper)
    writer = CheckpointWriter(
        engine,
        CheckpointStore(checkpoint_place(config)),
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        background=config.checkpoint.background,
        save_model_extras=partial(_save_model_extras, engine.backbone.model, config.model.base),
        still_mine=lambda: still_held(run_dir, job.owner),
        on_saved=partial(_saved, events),
        on_failed=partial(_failed, events),
        beat=partial(beat, "a checkpoint to be written"),
    )
    save = SaveCheckpoints(
        writer,
        guard,
        evaluate,
        remembering,
        seed=config.run.seed,
        identity=job.identity,
        every_steps=config.checkpoint.every_steps,
        keep_best=config.checkpoint.keep_best,
        memory=memory.get("best"),
    )
    settings = LoopSettings(
        num_steps=job.num_steps,
        objective=objective,
        lr=config.optim.lr,
        warmup_ratio=config.optim.warmup_ratio,
        schedule=config.optim.schedule,
        pooling=config.pooling,
        seed=config.run.seed,
    )
    hooks: list[Hook] = [
        LogSteps(log, events, {"world_size": ranks.world_size, "processes": processes}),
        guard,
        HeedNotices(notices),
        evaluate,
        health,
        *stop_early,
        save,
    ]
    try:
        steps = beating(shares, beat, "a step")
        run_loop(engine, steps, settings, hooks, flag=lambda: bool(notices.pending()))
    finally:
        if log:
            log.close()


def _held_out(job: WorkerJob, ranks: Ranks) -> Iterable[Sequence[Row]]:
    return eval_shares(
        job.source.prepared_dir,
        world_size=ranks.world_size,
        rank=ranks.rank,
        max_micro_batch_tokens=job.source.max_micro_batch_tokens,
        max_comparisons=job.config.evaluate.max_comparisons,
        shared_prefix=job.source.shared_prefix,
        attended_per_token=job.source.attended_per_token,
    )


def _tell(events: EventLog | None, kind: str, message: str, fields: Mapping[str, Any]) -> None:
    if events:
        events.write("warning", kind=kind, message=message, **fields)


def _saved(events: EventLog | None, step: int, num_bytes: int, blocked_s: float, seconds: float) -> None:
    if events:
        events.write("checkpoint", step=step, bytes=num_bytes, blocked_s=blocked_s, seconds=seconds)


def _failed(events: EventLog | None, step: int, message: str) -> None:
    if events:
        events.write("checkpoint_failed", step=step, message=message)


def _make_engine(job: WorkerJob, checkpoint: Checkpoint | None, deepspeed: bool) -> Engine:
    config, choices = job.config, job.choices
    settings = EngineSettings(
        zero_stage=choices.zero_stage,
        weight_decay=config.optim.weight_decay,
        betas=config.optim.betas,
        eps=config.optim.eps,
        max_grad_norm=config.optim.max_grad_norm,
        layer_decay=config.optim.layer_decay,
        bfloat16=choices.bfloat16,
        trained_only=config.model.lora is not None,
        bucket_elements=choices.buckets.elements,
        whole_below=choices.buckets.whole_below,
    )

    def load(gather: Callable[[list[Any]], AbstractContextManager[Any]]) -> RewardBackbone:
        model = make_model(
            config,
            pad_id=job.pad_id,
            device=choices.device,
            checkpoint_dir=checkpoint.model_dir if checkpoint else None,
            gather=gather,
        )
        if choices.gradient_checkpointing:
            # Renamed within transformers 5; the old name warns.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        return RewardBackbone(
            model, pooling=config.pooling, packed=config.model.packed, head_dropout=config.model.head_dropout
        )

    engine_type = DeepSpeedEngine if deepspeed else TorchEngine
    return engine_type(load, settings, device=choices.device)


def _save_model_extras(model: Any, base: str, directory: Path) -> None:
    """Config and tokenizer beside the weights, so that plain transformers loads the directory."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    tokenizer, _ = load_base_tokenizer(base)
    tokenizer.save_pretrained(directory)
