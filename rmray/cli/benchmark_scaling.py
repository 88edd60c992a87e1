"""`rmray benchmark scaling`: its options and what it calls. Called by `benchmark`; everything else is imported late."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmray.cli.benchmark_scale import _check_shape, _given, tell
from rmray.cli.numbers import count

_GRID_OPTIONS = ("num_actors", "max_replicas", "max_batch_tokens", "start_s", "seed")
_VALIDATION_OPTIONS = ("rounds", "run_s", "seed")


def scaling_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--validate", action="store_true", help="compare the simulation with a real engine instead")
    parser.add_argument("--measured", action="store_true", help="forwards of a 5m model on this CPU, not assumed ones")
    parser.add_argument("--model", metavar="SHAPE", help="what scores (default: 8b; 5m where it is measured)")
    parser.add_argument("--workload", default="rollouts-16", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--actors", dest="num_actors", type=count, metavar="N", help="at the highest load")
    parser.add_argument("--max-replicas", type=count, metavar="N")
    parser.add_argument("--max-batch-tokens", type=count, metavar="N")
    parser.add_argument("--start-s", type=float, metavar="S", help="from the decision to a replica that answers")
    parser.add_argument("--targets", nargs="+", type=float, metavar="X", help="target_tokens over max_batch_tokens")
    parser.add_argument("--processes", type=count, default=1, metavar="N")
    parser.add_argument("--paced", action="store_true", help="of --validate: forwards sleep, as long as a model says")
    parser.add_argument(
        "--serve", action="store_true", help="of --validate: real Ray Serve replicas, whose forwards sleep"
    )
    parser.add_argument("--rounds", type=count, metavar="N", help="of --validate")
    parser.add_argument("--run-s", type=float, metavar="S", help="of one case of --validate")
    parser.add_argument("--seed", type=int, metavar="N")


def run_scaling(arguments: Namespace) -> Mapping[str, Any]:
    _check_shape(arguments.model)
    if not arguments.validate:
        return _compare(arguments)
    return _validate_serve(arguments) if arguments.serve else _validate(arguments)


def _compare(arguments: Namespace) -> Mapping[str, Any]:
    from rmray.benchmark.report import save_json
    from rmray.benchmark.scaling.grid import GridSettings, run_grid
    from rmray.benchmark.scaling.load import draw_groups
    from rmray.benchmark.scaling.plots import plot_grid, print_grid

    output = Path(arguments.output)
    settings = GridSettings(**_given(arguments, _GRID_OPTIONS))
    groups = draw_groups(arguments.workload, settings.seed)
    if arguments.measured:
        from rmray.benchmark.scaling.forwards import measure_here

        cost = measure_here(arguments.model or "5m", arguments.workload, settings.max_batch_tokens)
    else:
        from rmray.benchmark.scaling.cost import assumed_h100

        cost = assumed_h100(arguments.model or "8b")
    targets = {"targets": arguments.targets} if arguments.targets else {}
    report = run_grid(settings, cost, arguments.workload, groups, **targets, processes=arguments.processes, say=tell)
    print_grid(report)
    save_json(output, "scaling", report.to_json())
    plot_grid(report, output)
    return report.to_json()


def _validate(arguments: Namespace) -> Mapping[str, Any]:
    from rmray.benchmark.report import save_json
    from rmray.benchmark.scaling.plots import print_validation
    from rmray.benchmark.scaling.validation import ValidationSettings, validate

    model = {"model": arguments.model} if arguments.model else {}
    settings = ValidationSettings(**model, **_given(arguments, _VALIDATION_OPTIONS), paced=arguments.paced)
    report = validate(settings, say=tell)
    print_validation(report)
    save_json(Path(arguments.output), f"scaling-validation{'-paced' if arguments.paced else ''}", report.to_json())
    return report.to_json()


def _validate_serve(arguments: Namespace) -> Mapping[str, Any]:
    from rmray.benchmark.report import save_json
    from rmray.benchmark.scaling.plots import print_serve_validation
    from rmray.benchmark.scaling.serve_compare import validate_serve
    from rmray.benchmark.scaling.serve_validation import ServeValidationSettings

    settings = ServeValidationSettings(**_given(arguments, _VALIDATION_OPTIONS))
    report = validate_serve(settings, say=tell)
    print_serve_validation(report)
    save_json(Path(arguments.output), "scaling-validation-serve", report.to_json())
    return report.to_json()
