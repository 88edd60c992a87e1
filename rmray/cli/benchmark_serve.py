"""`rmray benchmark serve`: its options, and what it calls. Called by `benchmark`. Everything else is imported late."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmray.cli.numbers import count, seed

Result = Mapping[str, Any]

_OPTIONS = (
    "threads",
    "rounds",
    "seconds",
    "prompt_chars",
    "completion_chars",
    "group_callers",
    "item_callers",
    "sweep",
    "replicas",
    "open_seconds",
    "open_requests",
    "haproxy",
    "seed",
)


def serve_arguments(parser: ArgumentParser) -> None:
    """Defaults are those of `ServeSettings`, or of its short form."""
    parser.add_argument("--quick", action="store_true", help="one small model, one round: to see that it runs")
    parser.add_argument("--grid", action="store_true", help="every point on every model, not on 5m alone")
    parser.add_argument("--model", dest="models", nargs="+", metavar="SHAPE", help="5m, 30m, ... (default: 5m 30m)")
    parser.add_argument("--threads", type=count, metavar="N", help="of torch in each process (default: 1)")
    parser.add_argument("--rounds", type=count, metavar="N", help="in which all points take turns")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="of each closed loop, once its queue is full")
    parser.add_argument("--prompt-chars", type=count, metavar="N", help="mean of prompts, 400 at least (default: 480)")
    parser.add_argument("--completion-chars", type=count, metavar="N", help="mean of completions (default: 160)")
    parser.add_argument("--callers", dest="group_callers", type=count, metavar="N", help="of groups, at saturation")
    parser.add_argument("--item-callers", type=count, metavar="N", help="of single completions, at saturation")
    parser.add_argument("--sweep", nargs="+", type=count, metavar="N", help="numbers of callers (default: 1 to 32)")
    parser.add_argument("--replicas", nargs="*", type=count, metavar="N", help="numbers of replicas beside one")
    parser.add_argument("--open-seconds", type=_seconds, metavar="S", help="of each load of Poisson arrivals, at most")
    parser.add_argument("--open-requests", type=count, metavar="N", help="of the same, at most")
    parser.add_argument(
        "--haproxy", action="store_true", default=None, help="answers HTTP instead of Serve's own proxy"
    )
    parser.add_argument("--seed", type=seed, metavar="N")


def _seconds(text: str) -> float:
    """For argparse: more than none."""
    number = float(text)
    if not 0 < number < 3600:
        raise ValueError(text)
    return number


def run_serve(arguments: Namespace) -> Result:
    """Measure, print, and write serve.json and two plots."""
    from rmray.benchmark.report import save_json
    from rmray.benchmark.serve import run
    from rmray.benchmark.serve.settings import QUICK, ServeSettings
    from rmray.benchmark.serve.show import plot_serve, print_serve
    from rmray.cli.benchmark_scale import tell
    from rmray.errors import ConfigError

    output = Path(arguments.output)
    given = {name: value for name in _OPTIONS if (value := getattr(arguments, name)) is not None}
    given |= {name: tuple(given[name]) for name in ("sweep", "replicas") if name in given}
    if arguments.models is not None:
        given["models"] = tuple(dict.fromkeys(arguments.models))
    settings = replace(QUICK if arguments.quick else ServeSettings(), **given)
    report = run.run_serve(
        settings, whole=arguments.grid, save=lambda so_far: save_json(output, "serve", so_far.to_json()), say=tell
    )
    print_serve(report)
    try:
        plot_serve(report, output)
    except ConfigError as error:  # no matplotlib: what was measured counts all the same
        tell(f"no plot: {error}")
    return report.to_json()
