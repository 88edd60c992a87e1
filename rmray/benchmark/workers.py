"""The whole path against the bare loop: `rmray train` on Ray Train and DeepSpeed beside the loop alone.

    bare loop         the loop with the bare engine in a process of its own, all threads; no Ray, no DeepSpeed
    one worker        `rmray train` with one worker that has all CPUs
    several workers   `rmray train` with as many workers as there are CPUs, one thread each

All take the same steps from the same base model: equal hashes of every step's rows and equal losses are checked before
any figure is told. Figures come from the runs' metrics.jsonl: each step's seconds, waiting for its data included; the
first steps, in which planning, caches and allocators warm up, are left out. Rows take turns, and of each step the
median over the rounds counts: a disturbance costs one round and not the figure. Called by `rmray benchmark workers`.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmray.benchmark.conversations import PAIRS_FILE, texts_of, write_conversations
from rmray.benchmark.equal import UnequalError
from rmray.benchmark.shapes import SHAPES
from rmray.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from rmray.config.train import TrainConfig

BARE, ONE, MANY = "bare loop", "one worker", "several workers"
MIN_ONE_TO_BARE, MIN_MANY_TO_ONE = 0.90, 1.0
LOSS_TOLERANCE = 1e-3
"""Of a step's loss, relative: sums over two ranks round differently, and every update carries it on."""
MAX_LENGTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersSettings:
    """model: a name of `SHAPES`. cpus: of the machine that are used, on every row. warm_steps: left out of the figures.

    rounds: runs of each row. zero_stage: of the rows on Ray, as in `workers.zero_stage`.
    """

    model: str = "30m"
    cpus: int = 2
    global_batch_size: int = 16
    num_steps: int = 20
    warm_steps: int = 5
    rounds: int = 2
    max_micro_batch_tokens: int = 4096
    zero_stage: str | int = "auto"
    seed: int = 0


QUICK = WorkersSettings(model="5m", num_steps=8, warm_steps=3, rounds=1)


@dataclass(frozen=True, slots=True)
class RowFigures:
    """pairs_per_s: of the steady steps, by each step's median over the rounds. of_rounds: by each round alone.
    step_s: median of the steady steps."""

    name: str
    num_workers: int
    cpus_each: int
    pairs_per_s: float
    of_rounds: tuple[float, ...]
    step_s: float


@dataclass(frozen=True, slots=True)
class WorkersReport:
    """num_pairs, num_tokens: of the steady steps. one_to_bare, many_to_one: ratios of pairs a second."""

    settings: WorkersSettings
    num_pairs: int
    num_tokens: int
    rows: tuple[RowFigures, ...]
    one_to_bare: float | None
    many_to_one: float | None
    machine: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        targets = {"one_to_bare": MIN_ONE_TO_BARE, "many_to_one": MIN_MANY_TO_ONE}
        return {"kind": "workers", "targets": targets, **asdict(self)}


def run_workers(
    settings: WorkersSettings | None = None,
    *,
    directory: Path | None = None,
    rows: Sequence[str] = (BARE, ONE, MANY),
    say: Callable[[str], None] = lambda text: None,
) -> WorkersReport:
    """Train every row `rounds` times, in turns. directory: kept for a look at the runs; else a temporary one.

    Raises UnequalError where rows did not train alike, ConfigError for settings without a steady step.
    """
    from rmray.benchmark.report import machine_facts

    settings = settings or WorkersSettings()
    if settings.warm_steps >= settings.num_steps:
        raise ConfigError("no step is left to measure", where="warm_steps", why=f"of {settings.num_steps} steps")
    with nullcontext(str(directory)) if directory else tempfile.TemporaryDirectory() as root:
        work = Path(root).resolve()
        config = _make_inputs(work, settings)
        runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in rows}
        for round_ in range(settings.rounds):
            for place in range(len(rows)):
                name = rows[(place + round_) % len(rows)]
                say(f"round {round_ + 1} of {settings.rounds}: {name}")
                runs[name].append(_train(name, _config_of(config, name, round_, settings), settings))
    return summarise(settings, runs, machine_facts("cpu"))


def _make_inputs(directory: Path, settings: WorkersSettings) -> TrainConfig:
    """Write pairs and a base model, and prepare them, so that no run has to."""
    from rmray.config.train import (
        CheckpointConfig,
        DataConfig,
        EvaluateConfig,
        ModelConfig,
        OptimConfig,
        RunConfig,
        TrainConfig,
        WorkersConfig,
    )
    from rmray.data.prepare import prepare_for
    from rmray.models.tiny_base import build_tiny_base

    num_pairs = settings.global_batch_size * (settings.num_steps + 1)  # some may be dropped
    rows = write_conversations(directory, num_pairs=num_pairs, seed=settings.seed)
    shape = SHAPES[settings.model]
    base = build_tiny_base(
        directory / "base",
        texts_of(rows),
        layers=shape.num_hidden_layers,
        hidden=shape.hidden_size,
        heads=shape.num_attention_heads,
        vocab_size=shape.vocab_size,
        max_length=MAX_LENGTH,
        seed=settings.seed,
    )
    config = TrainConfig(
        run=RunConfig(name="benchmark", storage=str(directory), seed=settings.seed),
        data=DataConfig(train=[str(directory / PAIRS_FILE)], max_length=MAX_LENGTH),
        model=ModelConfig(base=str(base), dtype="float32", gradient_checkpointing=False),
        optim=OptimConfig(global_batch_size=settings.global_batch_size, max_steps=settings.num_steps),
        workers=WorkersConfig(
            num=1, cpus=settings.cpus, max_micro_batch_tokens=settings.max_micro_batch_tokens, zero_stage="auto"
        ),
        checkpoint=CheckpointConfig(every_steps=settings.num_steps),
        evaluate=EvaluateConfig(every_steps=settings.num_steps),
    )
    prepare_for(config)
    return config


def _config_of(config: TrainConfig, name: str, round_: int, settings: WorkersSettings) -> TrainConfig:
    num = settings.cpus if name == MANY else 1
    workers = {"num": num, "cpus": settings.cpus // num, "zero_stage": settings.zero_stage}
    run = {"name": f"{name.replace(' ', '-')}-{round_}"}
    return config.model_copy(
        update={"workers": config.workers.model_copy(update=workers), "run": config.run.model_copy(update=run)}
    )


def _train(name: str, config: TrainConfig, settings: WorkersSettings) -> list[dict[str, Any]]:
    """One run; the lines of its training steps."""
    from rmray.training.metrics_log import METRICS_FILE, read_metrics

    if name == BARE:
        # A new process each: torch's threads and memory are those of a worker that has just begun.
        process = multiprocessing.get_context("spawn").Process(target=_train_bare, args=(config,))
        process.start()
        process.join()
        if process.exitcode:
            raise TrainingError("the bare loop's process failed", where=name, why=f"exit code {process.exitcode}")
    else:
        from rmray.training.trainer import train

        train(config, overwrite=True)
    path = Path(config.run.storage, config.run.name, METRICS_FILE)
    lines = [line for line in read_metrics(path) if "eval_loss" not in line]
    if len(lines) != settings.num_steps:
        raise TrainingError(f"{len(lines)} steps are logged of {settings.num_steps}", where=str(path))
    return lines


def _train_bare(config: TrainConfig) -> None:
    """What a worker runs, with the bare engine and shares planned in this process."""
    from rmray.data.chunks import local_steps
    from rmray.data.packing import attended_per_token_of
    from rmray.data.prepare import prepare_for
    from rmray.training.auto import Choices
    from rmray.training.job import make_job
    from rmray.training.machine import inspect_model
    from rmray.training.worker import run_worker

    prepared = prepare_for(config)
    shape = inspect_model(config.model)
    tokens = config.workers.max_micro_batch_tokens
    assert tokens != "auto"
    choices = Choices("cpu", False, 0, False, tokens, True, attended_per_token_of(shape.hidden, shape.intermediate))
    run_dir = Path(config.run.storage, config.run.name)
    run_dir.mkdir(parents=True, exist_ok=True)
    job = make_job(
        str(run_dir),
        config,
        choices,
        prepared_dir=str(prepared.directory),
        pad_id=int(prepared.manifest.render_rules["pad_id"]),
        identity={"name": config.run.name},
    )
    run_worker(job, None, local_steps(job.source), deepspeed=False)


def summarise(
    settings: WorkersSettings, runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], machine: Mapping[str, Any]
) -> WorkersReport:
    """Figures from metrics lines: of each row a list of runs, of each run its steps' lines. Raises UnequalError."""
    first = next(iter(runs.values()))[0]
    for name, of_row in runs.items():
        for lines in of_row:
            check_alike(name, lines, first)
    steady = slice(settings.warm_steps, None)
    num_pairs = sum(line["pairs"] for line in first[steady])
    rows = []
    for name, of_row in runs.items():
        seconds_by_round = [[line["seconds"] for line in lines[steady]] for lines in of_row]
        step_s = [statistics.median(of_step) for of_step in zip(*seconds_by_round, strict=True)]
        num = settings.cpus if name == MANY else 1
        rows.append(
            RowFigures(
                name=name,
                num_workers=num,
                cpus_each=settings.cpus // num,
                pairs_per_s=num_pairs / sum(step_s),
                of_rounds=tuple(num_pairs / sum(seconds) for seconds in seconds_by_round),
                step_s=statistics.median(step_s),
            )
        )
    per_s = {row.name: row.pairs_per_s for row in rows}
    return WorkersReport(
        settings=settings,
        num_pairs=num_pairs,
        num_tokens=sum(line["tokens"] for line in first[steady]),
        rows=tuple(rows),
        one_to_bare=per_s[ONE] / per_s[BARE] if {ONE, BARE} <= per_s.keys() else None,
        many_to_one=per_s[MANY] / per_s[ONE] if {ONE, MANY} <= per_s.keys() else None,
        machine=machine,
    )


def check_alike(name: str, lines: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
    """Raise UnequalError where two runs did not train on the same rows to the same losses."""
    for one, other in zip(lines, others, strict=True):
        if one["row_ids_hash"] != other["row_ids_hash"]:
            raise UnequalError("its steps have other rows", where=f"{name}, step {one['step']}")
        distance = abs(one["loss"] - other["loss"]) / abs(other["loss"])
        if not distance <= LOSS_TOLERANCE:
            raise UnequalError(
                f"its loss differs by {distance:.1e}",
                where=f"{name}, step {one['step']}",
                why=f"{one['loss']:.6f} against {other['loss']:.6f}; at most {LOSS_TOLERANCE:.0e} is rounding",
                next_step="times of different computations are not compared: report it with the versions",
            )


def print_workers(report: WorkersReport) -> None:
    """The table and the two ratios."""
    from rich.console import Console
    from rich.table import Table

    settings = report.settings
    steady = settings.num_steps - settings.warm_steps
    table = Table(
        title=f"{settings.model}, {steady} steady steps of {settings.global_batch_size} pairs, "
        f"{report.num_tokens / report.num_pairs:.0f} tokens a pair, {settings.rounds} round(s)",
        title_justify="left",
    )
    for heading in ("row", "workers x CPUs", "pairs/s", "of each round", "s a step"):
        table.add_column(heading, justify="left" if heading == "row" else "right")
    for row in report.rows:
        rounds = ", ".join(f"{per_s:.2f}" for per_s in row.of_rounds)
        table.add_row(
            row.name, f"{row.num_workers} x {row.cpus_each}", f"{row.pairs_per_s:.2f}", rounds, f"{row.step_s:.2f}"
        )
    console = Console()
    console.print(table)
    ratios = (
        ("one worker / bare loop", report.one_to_bare, MIN_ONE_TO_BARE),
        ("several workers / one worker", report.many_to_one, MIN_MANY_TO_ONE),
    )
    for name, ratio, target in ratios:
        if ratio is not None:
            console.print(f"{name}: {ratio:.3f} (wanted: at least {target:.2f})", highlight=False)
