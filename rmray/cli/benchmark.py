"""`rmray benchmark NAME`: the options of each benchmark and the one function it calls. Called by `verbs`.

Everything else is imported late, so that --help is quick.
"""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmray.cli import benchmark_scale as scale
from rmray.cli.benchmark_scale import tell
from rmray.cli.benchmark_scaling import run_scaling, scaling_arguments
from rmray.cli.benchmark_serve import run_serve, serve_arguments
from rmray.cli.numbers import count
from rmray.errors import ConfigError

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """add_arguments declares the options, run measures, prints and returns what `--json` prints."""

    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Result]


def add_arguments(parser: ArgumentParser) -> None:
    """One parser below `rmray benchmark` for each benchmark."""
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", title="benchmarks")
    for name, benchmark in BENCHMARKS.items():
        below = benchmarks.add_parser(name, help=benchmark.summary, description=benchmark.summary, allow_abbrev=False)
        benchmark.add_arguments(below)
        below.add_argument(
            "--output", default="runs/benchmark", metavar="DIR", help="for JSON and plots (default: %(default)s)"
        )
        # Those of the verb itself, told to stand here too; suppressed, or their defaults would undo what was given.
        below.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="end stdout with JSON")
        below.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")


def run(arguments: Namespace) -> Result:
    """Run one benchmark. Raises ConfigError where none is named."""
    if arguments.benchmark is None:
        raise ConfigError(
            "no benchmark is named", where="rmray benchmark", next_step=f"name one of {', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[arguments.benchmark].run(arguments)


def _machine_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--threads", type=count, default=None, metavar="N", help="of torch (default: torch's own)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--seed", type=int, default=0, metavar="N")


def _row_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model", nargs="+", default=["5m"], metavar="SHAPE", help="5m, 30m, 0.6b, 1.7b, 4b, 8b (default: 5m)"
    )
    parser.add_argument(
        "--workload",
        nargs="+",
        default=["multi-turn"],
        metavar="NAME",
        help="multi-turn, chat, rollouts-8, rollouts-16, losing; all; grid, for the plot (default: multi-turn)",
    )
    parser.add_argument("--data", nargs="+", default=[], metavar="FILE", help="comparisons instead of a workload")
    parser.add_argument("--base", default=None, metavar="DIR", help="base model for --data: its weights and tokenizer")
    parser.add_argument("--max-length", type=count, default=2048, metavar="N", help="longest path of --data, in tokens")
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="timed runs of each row")
    parser.add_argument("--rows", nargs="+", default=None, metavar="ROW", help="run these rows alone")
    parser.add_argument("--without", nargs="+", default=None, metavar="ROW", help="leave these rows out")
    _machine_arguments(parser)


def _train_arguments(parser: ArgumentParser) -> None:
    _row_arguments(parser)
    parser.add_argument("--pairs", type=count, default=64, metavar="N", help="of a run (default: %(default)s)")
    parser.add_argument(
        "--global-batch", type=count, default=8, metavar="N", help="pairs a step (default: %(default)s)"
    )
    parser.add_argument(
        "--max-micro-batch-tokens", type=count, default=None, metavar="N", help="of rmray (default: what auto gives)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every row")


def _score_arguments(parser: ArgumentParser) -> None:
    _row_arguments(parser)
    parser.add_argument("--completions", type=count, default=128, metavar="N", help="of a run (default: %(default)s)")
    parser.add_argument(
        "--max-batch-tokens", type=count, default=16384, metavar="N", help="of a forward (default: %(default)s)"
    )
    parser.add_argument(
        "--padded-batch-tokens", type=count, default=None, metavar="N", help="of the padded row (default: the fastest)"
    )


def _subject(arguments: Namespace) -> Any:
    from rmray.benchmark.run import Subject

    return Subject(
        models=arguments.model,
        workloads=arguments.workload,
        data=arguments.data,
        base=arguments.base,
        max_length=arguments.max_length,
    )


def _threads(arguments: Namespace) -> int:
    import torch

    return int(arguments.threads or torch.get_num_threads())


def _common(arguments: Namespace, known_rows: tuple[str, ...]) -> dict[str, Any]:
    from rmray.benchmark.settings import choose_rows

    return {
        "threads": _threads(arguments),
        "rows": choose_rows(known_rows, arguments.rows, arguments.without),
        "rounds": arguments.rounds,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "seed": arguments.seed,
    }


def _train(arguments: Namespace) -> Result:
    from rmray.benchmark.report import print_report
    from rmray.benchmark.run import run_train
    from rmray.benchmark.settings import TrainSettings
    from rmray.benchmark.train import ROWS

    settings = TrainSettings(
        **_common(arguments, ROWS),
        num_pairs=arguments.pairs,
        batch_pairs=arguments.global_batch,
        max_micro_batch_tokens=arguments.max_micro_batch_tokens,
        checkpointing=arguments.checkpointing,
    )
    report = run_train(_subject(arguments), settings, Path(arguments.output), notify=tell)
    print_report(report)
    return report.to_json()


def _score(arguments: Namespace) -> Result:
    from rmray.benchmark.report import print_report
    from rmray.benchmark.run import run_score
    from rmray.benchmark.score import ROWS
    from rmray.benchmark.settings import ScoreSettings

    settings = ScoreSettings(
        **_common(arguments, ROWS),
        num_completions=arguments.completions,
        max_batch_tokens=arguments.max_batch_tokens,
        padded_batch_tokens=arguments.padded_batch_tokens,
    )
    report = run_score(_subject(arguments), settings, Path(arguments.output), notify=tell)
    print_report(report)
    return report.to_json()


def _accuracy_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", required=True, metavar="FILE", help="comparisons to train on")
    parser.add_argument("--eval", nargs="+", required=True, metavar="FILE", help="comparisons to judge on")
    parser.add_argument("--base", required=True, metavar="DIR", help="base model: directory or Hub id")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="runs of each row (default: %(default)s)")
    parser.add_argument("--epochs", type=count, default=1, metavar="N")
    parser.add_argument(
        "--lr", type=float, default=1e-4, metavar="RATE", help="peak, linear to 0 (default: %(default)s)"
    )
    parser.add_argument("--weight-decay", type=float, default=0.01, metavar="W")
    parser.add_argument(
        "--global-batch", type=count, default=8, metavar="N", help="pairs a step (default: %(default)s)"
    )
    parser.add_argument("--max-length", type=count, default=2048, metavar="N", help="longest path in tokens")
    parser.add_argument("--max-pairs", type=count, default=None, metavar="N", help="train on the first N pairs alone")
    parser.add_argument("--rows", nargs="+", default=None, metavar="ROW", help="rmray, trl")
    _machine_arguments(parser)


def _accuracy(arguments: Namespace) -> Result:
    from rmray.benchmark.accuracy import ROWS, print_accuracy, run_accuracy
    from rmray.benchmark.settings import TrainSettings, choose_rows

    settings = TrainSettings(
        threads=_threads(arguments),
        rows=choose_rows(ROWS, arguments.rows, None),
        device=arguments.device,
        dtype=arguments.dtype,
        seed=arguments.seed,
        batch_pairs=arguments.global_batch,
        lr=arguments.lr,
        weight_decay=arguments.weight_decay,
    )
    report = run_accuracy(
        arguments.data,
        arguments.eval,
        base=arguments.base,
        settings=settings,
        num_seeds=arguments.seeds,
        epochs=arguments.epochs,
        max_length=arguments.max_length,
        max_pairs=arguments.max_pairs,
        output=Path(arguments.output),
        notify=tell,
    )
    print_accuracy(report)
    return report.to_json()


BENCHMARKS: dict[str, Benchmark] = {
    "train": Benchmark("the training loop beside TRL's RewardTrainer", _train_arguments, _train),
    "score": Benchmark("the scorer beside plain transformers", _score_arguments, _score),
    "accuracy": Benchmark("held-out accuracy beside TRL's, on the same data", _accuracy_arguments, _accuracy),
    "plan": Benchmark("the planner on a simulated large set over many ranks", scale.plan_arguments, scale.run_plan),
    "growth": Benchmark(
        "time and memory over model size, length, K and data", scale.growth_arguments, scale.run_growth
    ),
    "search": Benchmark(
        "sums solved with a process model, over a beam's width", scale.search_arguments, scale.run_search
    ),
    "serve": Benchmark(
        "a served model beside the bare forward and a one-forward-per-request server", serve_arguments, run_serve
    ),
    "scaling": Benchmark(
        "settings of the autoscaler under 1,000 simulated rollout actors", scaling_arguments, run_scaling
    ),
    "workers": Benchmark("Ray Train and DeepSpeed beside the bare loop", scale.workers_arguments, scale.run_workers),
}
