"""The benchmarks of size and of search: `plan`, `growth`, `workers` and `search`, with what each calls.

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
_GROWTH_OPTIONS = ("rounds", "max_micro_batch_tokens", "threads", "device", "seed")
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
_SEARCH_OPTIONS = ("problems", "widths", "proposals", "error_rate", "seed")


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


def growth_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: to see that it runs")
    parser.add_argument("--sweep", nargs="+", metavar="NAME", help="run these sweeps alone; `data` is one of them")
    parser.add_argument("--rows", nargs="+", type=count, metavar="N", help="sizes of the data sets")
    parser.add_argument("--without-prepare", action="store_true", help="prepare no data set, which needs Ray")
    parser.add_argument("--rounds", type=count, metavar="N", help="timed runs of each cell")
    parser.add_argument("--max-micro-batch-tokens", type=count, metavar="N")
    parser.add_argument("--threads", type=count, metavar="N", help="of torch")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--seed", type=int, metavar="N")


def run_growth(arguments: Namespace) -> Result:
    from dataclasses import replace

    from rmray.benchmark import growth
    from rmray.benchmark.growth_data import DataSettings
    from rmray.benchmark.growth_sweeps import QUICK_SWEEPS, SWEEPS
    from rmray.benchmark.plots_growth import plot_growth, print_growth
    from rmray.benchmark.report import save_json
    from rmray.benchmark.settings import choose_rows

    quick = arguments.quick
    known = QUICK_SWEEPS if quick else SWEEPS
    names = choose_rows((*known, "data"), arguments.sweep, None)
    data = DataSettings.quick() if quick else DataSettings()
    data = replace(
        data,
        rows=() if "data" not in names else tuple(arguments.rows or data.rows),
        prepare=data.prepare and not arguments.without_prepare,
    )
    settings = growth.GrowthSettings(rounds=1, data=data) if quick else growth.GrowthSettings(data=data)
    settings = replace(settings, **_given(arguments, _GROWTH_OPTIONS))
    report = growth.run_growth(settings, sweeps={n: p for n, p in known.items() if n in names}, quick=quick, say=tell)
    print_growth(report)
    save_json(Path(arguments.output), "growth", report.to_json())
    plot_growth(report, Path(arguments.output))
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


def search_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, metavar="DIR", help="of a process model of the generated world")
    parser.add_argument("--problems", type=count, metavar="N", help="sums to solve")
    parser.add_argument("--widths", nargs="+", type=count, metavar="N", help="of the beam")
    parser.add_argument("--proposals", type=count, metavar="N", help="steps drawn for each partial solution")
    parser.add_argument("--error-rate", type=float, metavar="SHARE", help="of the simulated policy's steps")
    parser.add_argument("--seed", type=int, metavar="N")


def run_search(arguments: Namespace) -> Result:
    from rmray.benchmark import search
    from rmray.benchmark.report import save_json

    given = _given(arguments, _SEARCH_OPTIONS)
    if "widths" in given:
        given["widths"] = tuple(given["widths"])
    report = search.run_search(arguments.bundle, search.SearchSettings(**given), notify=tell)
    search.print_search(report)
    save_json(Path(arguments.output), "search", report.to_json())
    search.plot_search(report, Path(arguments.output) / "search.png")
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
