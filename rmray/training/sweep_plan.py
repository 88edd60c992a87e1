"""Plan a learning-rate sweep and read its results: which trials, which are still to run, which rate is best. No Ray.

Called by `sweep`, which runs the trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rmray.config.train import TrainConfig
from rmray.errors import ConfigError
from rmray.training.repeats import (
    RunFigures,
    check_held_out,
    check_single,
    figures_of,
    finished_metrics,
    run_dir_of,
    seeds_of,
    spread,
    vary,
)
from rmray.training.run_dir import check_free, check_same, fixed_settings
from rmray.training.seeds import number

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep. done: its figures where an earlier sweep has finished it; resume: it has begun."""

    config: TrainConfig
    done: RunFigures | None = None
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Rate:
    """What a learning rate came to. runs: its finished ones; failures: what the others ended with.

    accuracy, accuracy_low, accuracy_high, loss: means over the finished runs; accuracy_std: over seeds. None where
    there is none.
    """

    lr: float
    runs: tuple[RunFigures, ...]
    failures: tuple[str, ...]
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    accuracy_std: float | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class SweepReport:
    """rates: best held-out accuracy first, failed ones last. best: of those without a failure, None if all failed."""

    name: str
    rates: tuple[Rate, ...]
    best: Rate | None
    notes: tuple[str, ...]
    file: str

    def to_json(self) -> dict[str, Any]:
        best = None
        if self.best:
            configs = [str(Path(run.run_dir) / "config.yaml") for run in self.best.runs]
            best = {"lr": self.best.lr, "override": override_of(self.best), "configs": configs}
        return {
            "name": self.name,
            "best": best,
            "rates": [asdict(rate) for rate in self.rates],
            "notes": list(self.notes),
            "file": self.file,
        }


def read_lrs(text: str) -> tuple[float, ...]:
    """`3e-6,1e-5` as numbers. Raises ConfigError: none, a word, not above 0, or one twice."""
    lrs: list[float] = []
    for word in text.split(","):
        try:
            lr = float(word)
        except ValueError:
            raise ConfigError(f"{word.strip()!r} is no number", where="--lrs", next_step=_LRS_HELP) from None
        if not 0 < lr < float("inf"):
            raise ConfigError(f"a learning rate is above 0, not {word.strip()}", where="--lrs")
        if lr in lrs:
            raise ConfigError(f"the learning rate {lr!r} is given twice", where="--lrs")
        lrs.append(lr)
    if len(lrs) < 2:
        raise ConfigError("one learning rate is no sweep", where="--lrs", next_step=_LRS_HELP)
    return tuple(sorted(lrs))


_LRS_HELP = "write them with commas: --lrs 3e-6,1e-5,3e-5"


def plan_trials(config: TrainConfig, lrs: Sequence[float], num_seeds: int) -> list[Trial]:
    """One trial a learning rate and seed. Raises ConfigError where nothing is held out."""
    check_single(config)
    check_held_out(config)
    if num_seeds < 1:
        raise ConfigError(f"{num_seeds} seeds make no run", where="--seeds", next_step="give 1 or more")
    seeds = seeds_of(config, num_seeds)
    return [
        # the seed is in the name of a lone one too: a sweep over more seeds finds its run again
        Trial(vary(config, f"lr-{lr!r}-seed-{seed}", seed=seed, lr=lr))
        for lr in lrs
        for seed in seeds
    ]


def look_up(trial: Trial, identity: Mapping[str, Any], *, overwrite: bool) -> Trial:
    """The trial with what an earlier sweep has left of it. identity: of any run of this sweep, for data and model.

    Raises RunError where its directory is in use by something else, or by a run of other settings, data or model.
    """
    run_dir = run_dir_of(trial.config)
    check_free(run_dir, resume=not overwrite, overwrite=overwrite)
    if overwrite or not run_dir.exists():
        return trial
    check_same(run_dir, {**identity, "settings": fixed_settings(trial.config)})
    metrics = finished_metrics(run_dir)
    return Trial(trial.config, done=figures_of(trial.config, metrics) if metrics else None, resume=True)


def concurrent_trials(config: TrainConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many runs the cluster holds at a time, 1 at least: each wants its workers, and 1 CPU for their data.

    nodes: the resources of each, CPU and GPU.
    """
    workers = config.workers
    cpus = sum(node.get("CPU", 0.0) for node in nodes) // (workers.max_num * workers.cpus + 1)
    slots = sum(
        min(node.get("CPU", 0.0) // workers.cpus, node.get("GPU", 0.0) // workers.gpus if workers.gpus else 1e9)
        for node in nodes
    )
    return max(1, int(min(cpus, slots // workers.max_num)))


def make_report(
    config: TrainConfig, results: Sequence[tuple[TrainConfig, RunFigures | str]], *, lrs: Sequence[float]
) -> SweepReport:
    """results: each trial's config with its figures, or with what it ended with."""
    rates = [_rate(lr, [result for trial, result in results if trial.optim.lr == lr]) for lr in lrs]
    ranked = sorted(rates, key=_rank)
    best = ranked[0] if ranked and not ranked[0].failures else None
    file = Path(config.run.storage) / f"{config.run.name}-sweep" / SWEEP_FILE
    return SweepReport(config.run.name, tuple(ranked), best, tuple(sweep_notes(ranked, best)), str(file))


def _rate(lr: float, results: Sequence[RunFigures | str]) -> Rate:
    runs = tuple(result for result in results if isinstance(result, RunFigures))
    failures = tuple(result for result in results if isinstance(result, str))
    figures = {name: spread([getattr(run, name) for run in runs]) for name in
               ("accuracy", "accuracy_low", "accuracy_high", "loss")}  # fmt: skip
    means = {name: found.mean if found else None for name, found in figures.items()}
    accuracy = figures["accuracy"]
    return Rate(lr, runs, failures, accuracy_std=accuracy.std if accuracy and len(runs) > 1 else None, **means)


def _rank(rate: Rate) -> tuple[Any, ...]:
    """Whole ones first, by accuracy, then by loss: a rate that fails with one seed of two is no safe choice."""
    accuracy = -rate.accuracy if rate.accuracy is not None else 0.0
    return (rate.accuracy is None, bool(rate.failures), accuracy, rate.loss if rate.loss is not None else float("inf"))


def sweep_notes(rates: Sequence[Rate], best: Rate | None) -> list[str]:
    """What to know before the best rate is taken. rates: best first."""
    if best is None:
        return ["No learning rate went through without a failure: none can be called best."]
    notes = []
    lrs = sorted(rate.lr for rate in rates)
    for edge, verb, factor in ((lrs[0], "lower", 1 / 3), (lrs[-1], "higher", 3.0)):
        if best.lr == edge:
            notes.append(
                f"WARNING: the best learning rate, {best.lr!r}, lies at the edge of the range: a {verb} one may be "
                f"better. Try {best.lr * factor:.0e} too."
            )
    rivals = [
        rate
        for rate in rates
        if rate is not best and rate.accuracy is not None and best.accuracy_low is not None
        and rate.accuracy >= best.accuracy_low
    ]  # fmt: skip
    if rivals:
        names = ", ".join(repr(rate.lr) for rate in rivals)
        notes.append(f"Within the best one's interval: {names}. The held-out set is too small to tell them apart.")
    return notes


def override_of(rate: Rate) -> str:
    return f"--optim.lr {rate.lr!r}"


def print_sweep(report: SweepReport, console: Console | None = None) -> None:
    """Print the table, the best config, failures and notes."""
    lines = (
        [Text(f"best: {override_of(report.best)}   {report.best.runs[0].run_dir}/config.yaml")] if report.best else []
    )
    lines += [
        Text(f"- optim.lr {rate.lr!r} failed: {failure}", style="red")
        for rate in report.rates
        for failure in rate.failures
    ]
    lines += [Text(f"- {note}", style="yellow" if note.startswith("WARNING") else "") for note in report.notes]
    (console or Console()).print(Group(_table(report), *lines))


def _table(report: SweepReport) -> Table:
    table = Table(title=Text(f"{report.name}: held-out figures by learning rate, best first"), title_justify="left")
    for column in ("optim.lr", "accuracy", "95% interval", "over seeds", "loss", "runs"):
        table.add_column(column, justify="right" if column in ("accuracy", "loss") else "left", no_wrap=True)
    for rate in report.rates:
        interval = "" if rate.accuracy_low is None else f"{rate.accuracy_low:.3f} to {rate.accuracy_high:.3f}"
        std = "" if rate.accuracy_std is None else f"±{rate.accuracy_std:.4f}"
        runs = f"{len(rate.runs)}" + (f", {len(rate.failures)} failed" if rate.failures else "")
        table.add_row(repr(rate.lr), number(rate.accuracy), interval, std, number(rate.loss), runs)
    return table
