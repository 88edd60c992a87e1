"""How cost grows: seconds and memory of a training step and of scoring over model size, length, K and prompt share.

Two rows take turns on the same weights and groups: `packed`, the forward that computes a prompt once, and `padded`, the
same backbone where it pads every path of its own (`packed: false`). Each is planned as a run plans it. A cell in which
packed is the slower one is lost, and is told and drawn as such. Called by `rmray benchmark growth`; `growth_data` adds
preparing and planning over the size of the data set.

Legend: P tokens of a prompt, R of a completion, K completions.
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rmray.benchmark.flops import synchronize
from rmray.benchmark.growth_data import DataCell, DataSettings, measure_data
from rmray.benchmark.growth_sweeps import GROWTH_SHAPES, QUICK_SWEEPS, SWEEPS, Point
from rmray.benchmark.shapes import build_classifier
from rmray.benchmark.timing import PeakMemory
from rmray.benchmark.workloads import make_groups

if TYPE_CHECKING:
    from rmray.data.group import TokenGroup
    from rmray.data.shares import StepShare
    from rmray.training.engine import Engine

PACKED, PADDED = "packed", "padded"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthSettings:
    """rounds: timed, after one that is not and that memory is measured in. max_micro_batch_tokens: computed, of one
    forward (a longer group goes alone). threads: of torch; None leaves what it has."""

    rounds: int = 3
    max_micro_batch_tokens: int = 8192
    threads: int | None = None
    device: str = "cpu"
    seed: int = 0
    data: DataSettings = field(default_factory=DataSettings)


@dataclass(frozen=True, slots=True)
class RowFigures:
    """seconds: median of a whole step or of scoring. tokens: computed. peak_bytes: beyond what was in use before."""

    seconds: float
    tokens: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class GrowthCell:
    """kind: `train` or `score`. num_parameters: of the model. *_tokens: means of the groups drawn."""

    sweep: str
    kind: str
    x: float
    label: str
    model: str
    num_parameters: int
    prompt_tokens: float
    completion_tokens: float
    completions: int
    num_groups: int
    packed: RowFigures
    padded: RowFigures

    @property
    def speed_up(self) -> float:
        """Of packed over padded; below 1 the cell is lost."""
        return self.padded.seconds / self.packed.seconds

    @property
    def token_ratio(self) -> float:
        return self.padded.tokens / self.packed.tokens

    @property
    def lost(self) -> bool:
        return self.speed_up < 1


@dataclass(frozen=True, slots=True)
class GrowthReport:
    """notes: what was left out, and why."""

    settings: GrowthSettings
    machine: Mapping[str, Any]
    cells: tuple[GrowthCell, ...]
    data: tuple[DataCell, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        cells = [
            asdict(cell) | {"speed_up": cell.speed_up, "token_ratio": cell.token_ratio, "lost": cell.lost}
            for cell in self.cells
        ]
        return {"kind": "growth", **asdict(self), "cells": cells}


def run_growth(
    settings: GrowthSettings | None = None,
    *,
    sweeps: Mapping[str, Sequence[Point]] | None = None,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> GrowthReport:
    """Measure every cell. sweeps: default SWEEPS, or QUICK_SWEEPS and the smallest data sets where `quick`.

    Where Ray is missing, preparing is left out and noted.
    """
    import torch

    from rmray.benchmark.report import machine_facts

    settings = settings or GrowthSettings(
        rounds=1 if quick else 3, data=DataSettings.quick() if quick else DataSettings()
    )
    sweeps = sweeps if sweeps is not None else QUICK_SWEEPS if quick else SWEEPS
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cells: list[GrowthCell] = []
    for name, points in sweeps.items():
        for point in points:
            say(f"{name}: {point.workload.name}, {point.model}")
            cells += measure_point(name, point, settings)
    notes: list[str] = []
    data = measure_data(settings.data, seed=settings.seed, say=say, note=notes.append)
    return GrowthReport(settings, machine_facts(settings.device), tuple(cells), tuple(data), tuple(notes))


def measure_point(sweep: str, point: Point, settings: GrowthSettings) -> list[GrowthCell]:
    """Training, where there are pairs to train on (K > 1), and scoring."""
    shape = GROWTH_SHAPES[point.model]
    prototype = build_classifier(shape, seed=settings.seed, device=settings.device, head_float32=False)
    groups = make_groups(point.workload, point.groups, shape.vocab_size, settings.seed)
    shares = {
        name: plan_share(groups, packed=name == PACKED, max_micro_batch_tokens=settings.max_micro_batch_tokens)
        for name in (PACKED, PADDED)
    }
    cells = []
    for kind in ("train", "score") if point.workload.completions > 1 else ("score",):
        rows = _measure_rows(kind, prototype, shares, settings)
        cells.append(
            GrowthCell(
                sweep=sweep,
                kind=kind,
                x=point.x,
                label=point.model if sweep == "model" else point.workload.name,
                model=point.model,
                num_parameters=sum(p.numel() for p in prototype.parameters()),
                prompt_tokens=float(np.mean([len(g.prefix) for g in groups])),
                completion_tokens=float(np.mean([len(s) for g in groups for s in g.suffixes])),
                completions=point.workload.completions,
                num_groups=len(groups),
                packed=rows[PACKED],
                padded=rows[PADDED],
            )
        )
    return cells


def _measure_rows(
    kind: str, prototype: Any, shares: Mapping[str, StepShare], settings: GrowthSettings
) -> dict[str, RowFigures]:
    """Both rows in turns. The first round warms up and shows the memory, which the others take for granted."""
    seconds: dict[str, list[float]] = {name: [] for name in shares}
    peaks: dict[str, int | None] = {}
    names = list(shares)
    for round_ in range(settings.rounds + 1):
        for place in range(len(names)):
            name = names[(place + round_) % len(names)]
            # A new engine each time: gradients and moments of one row would stand in the other's memory.
            engine = _make_engine(prototype, name == PACKED, settings.device)
            gc.collect()
            memory = PeakMemory(settings.device) if round_ == 0 else None
            synchronize(settings.device)
            start_s = time.perf_counter()
            (_train if kind == "train" else _score)(engine, shares[name])
            synchronize(settings.device)
            seconds[name].append(time.perf_counter() - start_s)
            if memory:
                peaks[name] = memory.read()
    return {
        name: RowFigures(
            statistics.median(seconds[name][1:]), computed_tokens(share, packed=name == PACKED), peaks[name]
        )
        for name, share in shares.items()
    }


def _make_engine(prototype: Any, packed: bool, device: str) -> Engine:
    from rmray.models.backbone import RewardBackbone, check_packed
    from rmray.models.heads import set_head_float32
    from rmray.training.engine import EngineSettings, TorchEngine

    def load(gather: Any) -> RewardBackbone:
        model = copy.deepcopy(prototype)
        set_head_float32(model)
        return RewardBackbone(model, packed=packed)

    engine = TorchEngine(load, EngineSettings(), device=device)
    check_packed(engine.backbone)
    return engine


def _train(engine: Engine, share: StepShare) -> None:
    """One step of the real loop, collation and the optimizer within."""
    from rmray.training.loop import LoopSettings, run_loop
    from rmray.training.objective import Objective

    run_loop(engine, [share], LoopSettings(num_steps=1, objective=Objective(), lr=1e-6, warmup_ratio=0.0))


def _score(engine: Engine, share: StepShare) -> None:
    """Every micro-batch collated and scored."""
    import torch

    from rmray.data.batch import build_batch

    engine.backbone.eval()
    with torch.inference_mode():
        for rows in share.micro_batches:
            engine.forward(build_batch([row.group for row in rows])).cpu()


def computed_tokens(share: StepShare, *, packed: bool) -> int:
    """Tokens that go through the layers: prompts once, or rectangles as wide as a micro-batch's longest path."""
    groups = [[row.group for row in rows] for rows in share.micro_batches]
    if packed:
        return sum(group.num_tokens for some in groups for group in some)
    return sum(sum(g.num_completions for g in some) * max(g.max_path_len for g in some) for some in groups if some)


def plan_share(groups: Sequence[TokenGroup], *, packed: bool, max_micro_batch_tokens: int) -> StepShare:
    """All groups as one step of one worker, cut into micro-batches as a run cuts them."""
    from rmray.benchmark.sets import rows_of_groups
    from rmray.data.packing import measure_shapes, plan_step
    from rmray.data.shares import StepShare

    shapes = measure_shapes(
        np.array([len(g.prefix) for g in groups]),
        np.array([len(s) for g in groups for s in g.suffixes]),
        np.array([g.num_completions for g in groups]),
        shared_prefix=packed,
    )
    plan = plan_step(shapes, world_size=1, max_micro_batch_tokens=max_micro_batch_tokens)
    rows = rows_of_groups(groups, prompt_keys=range(len(groups)))
    return StepShare(
        step=0,
        epoch=0,
        micro_batches=tuple(tuple(rows[i] for i in micro_batch) for micro_batch in plan.micro_batches(0)),
        row_ids_hash="",
        num_comparisons=len(groups),
        num_tokens=int(shapes.tokens.sum()),
    )
