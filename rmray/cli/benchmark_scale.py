"""The benchmarks of size: `plan`, `growth` and `workers`, their options and the one function each calls.

Called by `benchmark`. Everything else is imported late, so that --help is quick; so defaults stay where the functions
have them, and an option that is not given is not passed on.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmray.cli.numbers import count

Result = Mapping[str, Any]

_PLAN_OPTIONS = ("num_pairs", "num_ranks", "pairs_planned", "task_pairs", "model", "peak_flops", "utilisation", "seed")
_WORKERS_OPTIONS = (
    "model",
    "cpus",
    "global_batch_size",
    "num_steps",
    "warm_steps",
    "rounds",
    "max_micro_batch_tokens",
    "zero_stage",
    "seed",
)


def plan_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pairs", dest="num_pairs", type=count, metavar="N", help="of the simulated set")
    parser.add_argument("--ranks", dest="num_ranks", type=count, metavar="N", help="that they are planned for")
    parser.add_argument(
        "--planned", dest="pairs_planned", type=count, metavar="N", help="pairs that each cell really plans"
    )
    parser.add_argument("--task-pairs", type=int, metavar="N", help="of the small set on disk; 0 leaves it out")
    parser.add_argument("--model", metavar="SHAPE", help="what is trained")
    parser.add_argument("--peak-flops", type=float, metavar="F", help="of a rank, in operations a second")
    parser.add_argument("--utilisation", type=float, metavar="SHARE", help="of that peak which training reaches")
    parser.add_argument("--seed", type=int, metavar="N")


def run_plan(arguments: Namespace) -> Result:
    from rmray.benchmark import plan
    from rmray.benchmark.plots_plan import plot_plan, print_plan
    from rmray.benchmark.report import save_json

    _check_shape(arguments.model)
    report = plan.run_plan(**_given(arguments, _PLAN_OPTIONS), say=tell)
    print_plan(report)
    save_json(Path(arguments.output), "plan", report.to_json())
    plot_plan(report, Path(arguments.output))
    return report.to_json()


def _zero_stage(text: str) -> str | int:
    """For argparse: `auto` or a stage."""
    return text if text == "auto" else int(text)


def workers_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", metavar="SHAPE", help="with random weights")
    parser.add_argument("--cpus", type=count, metavar="N", help="that every row uses")
    parser.add_argument("--global-batch", dest="global_batch_size", type=count, metavar="N", help="pairs a step")
    parser.add_argument("--steps", dest="num_steps", type=count, metavar="N")
    parser.add_argument("--warm-steps", type=count, metavar="N", help="left out of the figures")
    parser.add_argument("--rounds", type=count, metavar="N", help="runs of each row")
    parser.add_argument("--max-micro-batch-tokens", type=count, metavar="N")
    parser.add_argument("--zero-stage", type=_zero_stage, choices=["auto", 0, 1, 2, 3])
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="run these rows alone")
    parser.add_argument("--without", nargs="+", metavar="ROW", help="leave these rows out")
    parser.add_argument("--seed", type=int, metavar="N")


def run_workers(arguments: Namespace) -> Result:
    from rmray.benchmark import workers
    from rmray.benchmark.report import save_json
    from rmray.benchmark.settings import choose_rows

    _check_shape(arguments.model)
    rows = choose_rows((workers.BARE, workers.ONE, workers.MANY), arguments.rows, arguments.without)
    report = workers.run_workers(workers.WorkersSettings(**_given(arguments, _WORKERS_OPTIONS)), rows=rows, say=tell)
    workers.print_workers(report)
    save_json(Path(arguments.output), "workers", report.to_json())
    return report.to_json()


def _given(arguments: Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _check_shape(name: str | None) -> None:
    """Raise ConfigError for a shape that there is not."""
    from rmray.benchmark.shapes import SHAPES
    from rmray.errors import ConfigError

    if name is not None and name not in SHAPES:
        raise ConfigError(f"{name!r} is no shape", where="--model", why=f"shapes: {', '.join(SHAPES)}")


def tell(line: str) -> None:
    """Show how far a measurement has come, at once."""
    print(line, flush=True)
