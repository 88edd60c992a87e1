"""Repeat a run over seeds and tell how far the results spread. Called by `rmray train --seeds`; no Ray of its own.

run.seed, run.seed + 1, ... one after the other, each with all of the cluster. The seed decides order, head and dropout;
data and held-out prompts are the same for all, so that what differs between the runs is luck alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from scipy.stats import chi2

from rmray.config.train import TrainConfig
from rmray.connect import connected
from rmray.errors import ConfigError
from rmray.training.repeats import (
    RunFigures,
    Spread,
    check_held_out,
    check_single,
    figures_of,
    run_dir_of,
    save_report,
    seeds_of,
    spread,
    vary,
)
from rmray.training.run_dir import check_free
from rmray.training.storage import with_absolute_paths

SEEDS_FILE = "seeds.json"
FIGURES = ("accuracy", "loss", "ece")  # of RunFigures
MAX_STD = 0.5  # that a share can have
Z_95 = 1.96  # half a 95% interval, in standard errors


@dataclass(frozen=True, slots=True)
class SeedsReport:
    """runs: one a seed. spreads: by FIGURES' names, None where a run lacks the figure. file: where this report lies."""

    name: str
    runs: tuple[RunFigures, ...]
    spreads: dict[str, Spread | None]
    notes: tuple[str, ...]
    file: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "runs": [asdict(run) for run in self.runs], "notes": list(self.notes)}


def run_seeds(
    config: TrainConfig,
    num_seeds: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    train: Callable[..., Any] | None = None,
) -> SeedsReport:
    """Train `num_seeds` runs, NAME-seed-0 and on, and write storage/NAME-seeds/seeds.json.

    resume: go on with the unfinished ones; finished ones are looked up and not trained again. overwrite: delete all of
    them first. train: `trainer.train`, unless another is given. Raises ConfigError (nothing held out, fewer than 2
    seeds), RunError before any run starts where one of their directories is in use, and what `train` raises.
    """
    if train is None:
        from rmray.training import trainer

        train = trainer.train
    config = with_absolute_paths(config)
    configs = plan_seeds(config, num_seeds)
    for each in configs:
        check_free(run_dir_of(each), resume=resume, overwrite=overwrite)
    runs = []
    with connected():  # one Ray for all of them
        for number, each in enumerate(configs, 1):
            print(f"seed {each.run.seed}, run {number} of {num_seeds}: {run_dir_of(each)}", file=sys.stderr, flush=True)
            outcome = train(each, resume=resume, overwrite=overwrite)
            runs.append(figures_of(each, outcome.metrics))
    report = make_report(config, runs)
    save_report(Path(report.file), report.to_json())
    return report


def plan_seeds(config: TrainConfig, num_seeds: int) -> list[TrainConfig]:
    """The configs of the runs: nothing but name and seed differ."""
    if num_seeds < 2:
        raise ConfigError(f"{num_seeds} seed has no spread", where="--seeds", next_step="give 2 or more")
    check_single(config)
    check_held_out(config)
    return [vary(config, f"seed-{seed}", seed=seed) for seed in seeds_of(config, num_seeds)]


def make_report(config: TrainConfig, runs: Sequence[RunFigures]) -> SeedsReport:
    spreads = {name: spread([getattr(run, name) for run in runs]) for name in FIGURES}
    file = Path(config.run.storage) / f"{config.run.name}-seeds" / SEEDS_FILE
    return SeedsReport(config.run.name, tuple(runs), spreads, tuple(spread_notes(runs)), str(file))


def spread_notes(runs: Sequence[RunFigures]) -> list[str]:
    """How far the seeds spread against what one run's interval allows for, and how sure that is after so few."""
    accuracy = spread([run.accuracy for run in runs])
    assert accuracy is not None  # figures_of lets no run through without one
    half = sum(run.accuracy_high - run.accuracy_low for run in runs) / len(runs) / 2
    # (n - 1) s^2 / sigma^2 is chi-squared, for accuracies that scatter normally
    freedom = len(runs) - 1
    low, high = (accuracy.std * (freedom / chi2.ppf(q, freedom)) ** 0.5 for q in (0.975, 0.025))
    bounds = f"between {low:.4f} and {high:.4f}" if high < MAX_STD else f"above {low:.4f}, and no more can be said"
    notes = [
        f"Held-out accuracy varies by {accuracy.std:.4f} (standard deviation) over {len(runs)} seeds, from "
        f"{accuracy.min:.3f} to {accuracy.max:.3f}. So few seeds put the true value {bounds}.",
    ]
    if half == 0:
        return [*notes, "The runs' own intervals have no width: too few held-out prompts to compare with."]
    ratio = accuracy.std / (half / Z_95)
    notes.append(
        f"One run's 95% interval is about ±{half:.3f}, a standard error of {half / Z_95:.4f} from which prompts happen "
        f"to be held out: the seeds' spread is {ratio:.2f} times that."
    )
    if ratio >= 1:
        notes.append("The seed matters more than the held-out sample: one run's interval understates the doubt.")
    elif ratio >= 0.5:
        notes.append("Seed and held-out sample both matter: compare means over seeds, not single runs.")
    else:
        notes.append("The held-out sample matters more than the seed: more held-out prompts tell more than more seeds.")
    return notes


def print_seeds(report: SeedsReport, console: Console | None = None) -> None:
    """Print the table and its notes."""
    (console or Console()).print(Group(_table(report), *[Text(f"- {note}") for note in report.notes]))


def _table(report: SeedsReport) -> Table:
    table = Table(title=Text(f"{report.name}: held-out figures of {len(report.runs)} seeds"), title_justify="left")
    for column in ("seed", "accuracy", "95% interval", "loss", "ECE"):
        table.add_column(column, justify="left" if column in ("seed", "95% interval") else "right", no_wrap=True)
    for run in report.runs:
        interval = f"{run.accuracy_low:.3f} to {run.accuracy_high:.3f}"
        table.add_row(str(run.seed), number(run.accuracy), interval, number(run.loss), number(run.ece))
    table.add_section()
    for name in ("mean", "std", "min", "max"):
        values = [getattr(found, name) if found else None for found in map(report.spreads.get, FIGURES)]
        accuracy, loss, ece = map(number, values)
        table.add_row(name, accuracy, "", loss, ece)
    return table


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
