"""rmray's side of `benchmark train`: the real loop on a prepared set, planning and collation within the time.

Called by `train`. The sides share a prototype of the model, each run copies it.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmray.benchmark.flops import LinearMeter, Work, batch_work, synchronize
from rmray.benchmark.sets import rows_of_groups
from rmray.benchmark.settings import TrainSettings
from rmray.benchmark.timing import Run
from rmray.data.batch import FlatBatch, build_batch
from rmray.data.chunks import StepSource, count_steps, local_steps
from rmray.data.group import TokenGroup
from rmray.data.pairs import PairTargets
from rmray.data.prepared import Row
from rmray.models.backbone import RewardBackbone, check_packed
from rmray.models.heads import set_head_float32
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.hooks import LogSteps, StopWhenBroken
from rmray.training.loop import Hook, LoopSettings, run_loop
from rmray.training.metrics_log import MetricsLog
from rmray.training.objective import Objective


@dataclass(frozen=True, slots=True)
class DisjointPairs(Objective):
    """The pairs (0, 1), (2, 3), ... of each group's completions, as `sets.pairs_of_groups` gives them to the others."""

    def weight(self, rows: Iterable[Row]) -> float:
        return float(sum(len(row.ranks) // 2 for row in rows))

    def targets(self, rows: Sequence[Row]) -> PairTargets:
        chosen: list[int] = []
        start = 0
        for row in rows:
            chosen += range(start, start + len(row.ranks) // 2 * 2, 2)
            start += len(row.ranks)
        chosen_P = np.array(chosen, dtype=np.int64)
        return PairTargets(chosen_P, chosen_P + 1, np.zeros(len(chosen)))


class MeteredEngine(TorchEngine):
    """The bare engine, which notes tokens and attended pairs of its forwards."""

    work = Work()

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        lengths = [(s.prefix_len, [n for _, n in s.suffixes]) for s in batch.segments]
        self.work += batch_work(lengths, packed=self.backbone.packed)
        return super().forward(batch)


def objective_of(groups: Sequence[TokenGroup]) -> Objective:
    """The project's own loss where K is 2; else the same loss over the pairs that the other side gets."""
    return Objective() if all(g.num_completions == 2 for g in groups) else DisjointPairs()


def engine_of(prototype: Any, settings: TrainSettings) -> MeteredEngine:
    """An engine on a copy of a plain sequence classifier, as a run makes it."""

    def load(gather: Any) -> RewardBackbone:
        model = copy.deepcopy(prototype)
        set_head_float32(model)
        if settings.checkpointing:
            # Renamed within transformers 5; the old name warns.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        return RewardBackbone(model)

    engine = MeteredEngine(
        load,
        EngineSettings(weight_decay=settings.weight_decay, bfloat16=settings.dtype == "bfloat16"),
        device=settings.device,
    )
    check_packed(engine.backbone)
    return engine


def batch_gradient(
    prototype: Any, groups: Sequence[TokenGroup], settings: TrainSettings
) -> tuple[np.ndarray[Any, Any], dict[str, torch.Tensor]]:
    """Scores, group after group, and the gradient of their mean loss, on the CPU: one global batch, no update."""
    engine, objective = engine_of(prototype, settings), objective_of(groups)
    engine.backbone.train()
    scores_S = engine.forward(build_batch(groups))
    terms = objective.terms(scores_S, objective.targets(rows_like(groups)))
    engine.backward(terms.loss_sum / terms.weight, last=True)
    gradients = {n: p.grad.float().cpu() for n, p in engine.backbone.model.named_parameters() if p.grad is not None}
    return scores_S.detach().double().cpu().numpy(), gradients


def rows_like(groups: Sequence[TokenGroup]) -> list[Row]:
    """Rows in the groups' order."""
    return rows_of_groups(groups, prompt_keys=range(len(groups)))


class RmrayRow:
    """One run of the real loop over a prepared set in one epoch: reading, planning, collation and the loop's own
    metrics are within the time; loading the model and making the optimizer are not."""

    def __init__(
        self,
        prototype: Any,
        groups: Sequence[TokenGroup],
        set_dir: Path,
        settings: TrainSettings,
        *,
        batch_groups: int,
        max_micro_batch_tokens: int,
    ) -> None:
        self._prototype, self._settings = prototype, settings
        self._objective = objective_of(groups)
        self._source = StepSource(
            str(set_dir), settings.seed, batch_groups, max_micro_batch_tokens=max_micro_batch_tokens
        )
        self._linear = 0
        self.packed = True

    def __call__(self) -> Run:
        settings = self._settings
        engine = engine_of(self._prototype, settings)
        self.packed = engine.backbone.packed
        loop = LoopSettings(
            num_steps=count_steps(self._source).num_steps,
            objective=self._objective,
            lr=settings.lr,
            warmup_ratio=0.0,
            seed=settings.seed,
        )
        with tempfile.TemporaryDirectory() as run_dir:
            log = MetricsLog(Path(run_dir)) if importlib.util.find_spec("tensorboard") else None
            hooks: list[Hook] = [LogSteps(log, None, {}), StopWhenBroken()]
            engine.work = Work()  # without the probe's
            meter = LinearMeter(engine.backbone.model)
            with nullcontext() if self._linear else meter:  # every run computes the same: the first is counted
                synchronize(settings.device)
                start_s = time.perf_counter()
                run_loop(engine, local_steps(self._source), loop, hooks)
                synchronize(settings.device)
                seconds = time.perf_counter() - start_s
            if log:
                log.close()
        self._linear = self._linear or meter.operations
        return Run(seconds, engine.work + Work(linear=self._linear))


def auto_micro_batch_tokens(prototype: Any, settings: TrainSettings, *, longest_path: int) -> int:
    """What a run's `workers.max_micro_batch_tokens: auto` gives on this machine."""
    from rmray.training.auto import ModelShape, micro_batch_tokens
    from rmray.training.machine import inspect_machine

    config = prototype.config.get_text_config()
    shape = ModelShape(
        num_parameters=sum(p.numel() for p in prototype.parameters()),
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
    )
    return micro_batch_tokens(
        shape,
        inspect_machine(gpu=settings.device == "cuda", workers_here=1),
        shards=1,
        gradient_checkpointing=settings.checkpointing,
        bfloat16=settings.dtype == "bfloat16",
        at_least=2 * longest_path,
    )
