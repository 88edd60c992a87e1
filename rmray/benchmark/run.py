"""Measure all cells asked for, and write what was measured after each of them. Called by the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmray.benchmark import score, train
from rmray.benchmark.plots import plot_speed_ups
from rmray.benchmark.report import Cell, Report
from rmray.benchmark.settings import ScoreSettings, TrainSettings
from rmray.benchmark.shapes import SHAPES, build_classifier
from rmray.benchmark.workloads import GRID, WORKLOADS, Workload
from rmray.data.group import TokenGroup
from rmray.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured on what. models: names of `SHAPES`, with random weights. workloads: names of `WORKLOADS`, or
    `all` or `grid`. data: files of comparisons instead, on the weights and the tokenizer of `base`."""

    models: Sequence[str] = ()
    workloads: Sequence[str] = ()
    data: Sequence[str] = ()
    base: str | None = None
    max_length: int = 2048


def run_train(subject: Subject, settings: TrainSettings, output: Path, *, notify: Callable[[str], None]) -> Report:
    """Measure training; writes output/train.json and train.png."""

    def measure(work: Workload | list[TokenGroup], name: str, model: str, prototype: Any, tokenizer: Any) -> Cell:
        if isinstance(work, Workload):
            return train.measure_workload(work, model, prototype, settings, notify=notify)
        return train.measure_groups(work, name, model, prototype, settings, tokenizer=tokenizer, notify=notify)

    limit = settings.num_pairs
    return _run(subject, settings, limit, output, measure, lambda cells: train.report_of(cells, settings), notify)


def run_score(subject: Subject, settings: ScoreSettings, output: Path, *, notify: Callable[[str], None]) -> Report:
    """Measure scoring; writes output/score.json and score.png."""

    def measure(work: Workload | list[TokenGroup], name: str, model: str, prototype: Any, tokenizer: Any) -> Cell:
        if isinstance(work, Workload):
            return score.measure_workload(work, model, prototype, settings, notify=notify)
        return score.measure_groups(work, name, model, prototype, settings, notify=notify)

    limit = settings.num_completions // 2
    return _run(subject, settings, limit, output, measure, lambda cells: score.report_of(cells, settings), notify)


Measure = Callable[[Workload | list[TokenGroup], str, str, Any, Any], Cell]


def _run(
    subject: Subject,
    settings: TrainSettings | ScoreSettings,
    limit: int,
    output: Path,
    measure: Measure,
    report_of: Callable[[Sequence[Cell]], Report],
    notify: Callable[[str], None],
) -> Report:
    cells: list[Cell] = []
    for model, prototype, tokenizer, work, name in _subjects(subject, settings, limit):
        cells.append(measure(work, name, model, prototype, tokenizer))
        report_of(cells).save(output)  # a later cell may break off
    report = report_of(cells)
    try:
        plot_speed_ups(report, output / f"{report.kind}.png")
    except ConfigError as error:  # no matplotlib: what was measured counts all the same
        notify(f"no plot: {error}")
    return report


def _subjects(
    subject: Subject, settings: TrainSettings | ScoreSettings, limit: int
) -> Iterator[tuple[str, Any, Any, Workload | list[TokenGroup], str]]:
    """(model's name, model, tokenizer, workload or groups, its name) of each cell."""
    if subject.data:
        yield from _from_files(subject, settings, limit)
        return
    for model in subject.models:
        if model not in SHAPES:
            raise ConfigError(f"{model!r} is no shape", where="--model", why=f"shapes: {', '.join(SHAPES)}")
    workloads = choose_workloads(subject.workloads)
    for model in subject.models:
        # Training keeps float32 weights whatever it computes in.
        dtype = settings.torch_dtype if isinstance(settings, ScoreSettings) else None
        prototype = build_classifier(
            SHAPES[model], seed=settings.seed, dtype=dtype, device=settings.device, head_float32=False
        )
        for workload in workloads:
            yield model, prototype, None, workload, workload.name


def _from_files(
    subject: Subject, settings: TrainSettings | ScoreSettings, limit: int
) -> Iterator[tuple[str, Any, Any, list[TokenGroup], str]]:
    import torch

    from rmray.benchmark.sets import even_groups, read_files
    from rmray.data.tokenizer import load_base_tokenizer
    from rmray.models.base import load_reward_model

    if subject.base is None:
        raise ConfigError("--data needs --base: the directory or Hub id whose tokenizer and weights are taken")
    tokenizer, pad = load_base_tokenizer(subject.base)
    prototype: Any = load_reward_model(subject.base, dtype=torch.float32, pad_id=pad.id, seed=settings.seed)
    prototype.to(settings.device)
    for path in subject.data:
        groups = even_groups(read_files([path], subject.base, max_length=subject.max_length, limit=limit).groups)
        yield Path(subject.base).name, prototype, tokenizer, groups, Path(path).name


def choose_workloads(names: Sequence[str]) -> list[Workload]:
    """Workloads by name, `all` of the table, or the `grid` for the plot. Raises ConfigError for another name."""
    chosen: list[Workload] = []
    for name in names:
        if name == "all":
            chosen += WORKLOADS.values()
        elif name == "grid":
            chosen += GRID
        elif name in WORKLOADS:
            chosen.append(WORKLOADS[name])
        else:
            raise ConfigError(
                f"{name!r} is no workload", where="--workload", why=f"workloads: {', '.join(WORKLOADS)}, all, grid"
            )
    return list(dict.fromkeys(chosen))
