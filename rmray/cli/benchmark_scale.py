"""The benchmarks of size: `plan`, `growth` and `workers`, their options and the one function each calls.

Called by `benchmark`. Everything else is imported late, so that --help is quick.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmray.cli.numbers import count

Result = Mapping[str, Any]


def plan_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pairs", type=count, default=100_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--ranks", type=count, default=512, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--planned",
        type=count,
        default=4_000_000,
        metavar="N",
        help="pairs really planned a cell (default: %(default)s)",
    )
    parser.add_argument("--task-pairs", type=count, default=None, metavar="N", help="of the small set on disk")
    parser.add_argument("--without-task", action="store_true", help="write no set to disk")
    parser.add_argument("--model", default="8b", metavar="SHAPE", help="what is trained (default: %(default)s)")
    parser.add_argument("--peak-flops", type=float, default=989e12, metavar="F", help="of a rank (default: an H100's)")
    parser.add_argument("--utilisation", type=float, default=0.4, metavar="SHARE", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")


def run_plan(arguments: Namespace) -> Result:
    from rmray.benchmark import plan
    from rmray.benchmark.plots_plan import plot_plan, print_plan
    from rmray.benchmark.report import save_json

    task_pairs = plan.TASK_PAIRS if arguments.task_pairs is None else arguments.task_pairs
    report = plan.run_plan(
        num_pairs=arguments.pairs,
        num_ranks=arguments.ranks,
        pairs_planned=arguments.planned,
        task_pairs=0 if arguments.without_task else task_pairs,
        model=_shape(arguments.model),
        peak_flops=arguments.peak_flops,
        utilisation=arguments.utilisation,
        seed=arguments.seed,
        say=tell,
    )
    print_plan(report)
    save_json(Path(arguments.output), "plan", report.to_json())
    plot_plan(report, Path(arguments.output))
    return report.to_json()


def workers_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="30m", metavar="SHAPE", help="(default: %(default)s)")
    parser.add_argument("--cpus", type=count, default=2, metavar="N", help="of every row (default: %(default)s)")
    parser.add_argument(
        "--global-batch", type=count, default=32, metavar="N", help="pairs a step (default: %(default)s)"
    )
    parser.add_argument("--steps", type=count, default=24, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--warm-steps", type=count, default=6, metavar="N", help="left out (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=2, metavar="N", help="runs of each row (default: %(default)s)")
    parser.add_argument(
        "--max-micro-batch-tokens", type=count, default=4096, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--zero-stage", default="auto", choices=["auto", "0", "1", "2", "3"])
    parser.add_argument("--rows", nargs="+", default=None, metavar="ROW", help="run these rows alone")
    parser.add_argument("--without", nargs="+", default=None, metavar="ROW", help="leave these rows out")
    parser.add_argument("--seed", type=int, default=0, metavar="N")


def run_workers(arguments: Namespace) -> Result:
    from rmray.benchmark import workers
    from rmray.benchmark.report import save_json
    from rmray.benchmark.settings import choose_rows

    stage = arguments.zero_stage
    settings = workers.WorkersSettings(
        model=_shape(arguments.model),
        cpus=arguments.cpus,
        global_batch_size=arguments.global_batch,
        num_steps=arguments.steps,
        warm_steps=arguments.warm_steps,
        rounds=arguments.rounds,
        max_micro_batch_tokens=arguments.max_micro_batch_tokens,
        zero_stage=stage if stage == "auto" else int(stage),
        seed=arguments.seed,
    )
    rows = choose_rows((workers.BARE, workers.ONE, workers.MANY), arguments.rows, arguments.without)
    report = workers.run_workers(settings, rows=rows, say=tell)
    workers.print_workers(report)
    save_json(Path(arguments.output), "workers", report.to_json())
    return report.to_json()


def _shape(name: str) -> str:
    """The name of a shape that there is. Raises ConfigError for another."""
    from rmray.benchmark.shapes import SHAPES
    from rmray.errors import ConfigError

    if name not in SHAPES:
        raise ConfigError(f"{name!r} is no shape", where="--model", why=f"shapes: {', '.join(SHAPES)}")
    return name


def tell(line: str) -> None:
    """Show how far a measurement has come, at once."""
    print(line, flush=True)
