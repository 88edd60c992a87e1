"""The verbs: their options and the one function each calls. Everything heavy is imported inside, so --help is quick."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel

from rmray.cli import benchmark, best_of_n, ensemble, evaluate, export, judge, report, serve, source
from rmray.cli.columns import add_column_arguments, add_data_arguments, columns_of
from rmray.config import TrainConfig, load_config
from rmray.config.load import known_paths, nearest
from rmray.config.serve import ServeConfig

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verb:
    """add_arguments declares the options, run does the work and returns what `--json` prints. config: what a config
    file and dotted keys are of, where it takes them."""

    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Result]
    takes_overrides: bool = False
    config: type[BaseModel] = TrainConfig


def nearest_option(verb: str, name: str) -> str | None:
    """The dotted config key that an unknown option of a verb most likely means."""
    return nearest((name,), set(known_paths(VERBS[verb].config)))


def _config_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml", help="training config; --dotted.key VALUE overrides a field")


def _config(arguments: Namespace) -> TrainConfig:
    return load_config(TrainConfig, arguments.config, arguments.overrides)


def _prepare(arguments: Namespace) -> Result:
    config = _config(arguments)
    from rmray.data.prepare import format_ledger, prepare_for

    prepared = prepare_for(config)
    print(format_ledger(prepared.manifest))
    print(f"{'found' if prepared.cached else 'wrote'} {prepared.directory}")
    return {"directory": str(prepared.directory), "cached": prepared.cached, **prepared.manifest.ledger()}


def _train_arguments(parser: ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of this run")
    parser.add_argument("--overwrite", action="store_true", help="delete an existing run of this name first")
    parser.add_argument(
        "--seeds", type=int, default=None, metavar="N", help="repeat the run over N seeds and show how far they spread"
    )


def _train(arguments: Namespace) -> Result:
    config = _config(arguments)
    if arguments.seeds is not None:
        return _train_over_seeds(config, arguments)
    if config.ensemble.members > 1:
        return _train_ensemble(config, arguments)
    from rmray.training.trainer import train

    outcome = train(config, resume=arguments.resume, overwrite=arguments.overwrite)
    return {"run": str(outcome.run_dir), "bundle": str(outcome.bundle_dir), **outcome.metrics}


def _train_over_seeds(config: TrainConfig, arguments: Namespace) -> Result:
    from rmray.training.seeds import print_seeds, run_seeds

    report = run_seeds(config, arguments.seeds, resume=arguments.resume, overwrite=arguments.overwrite)
    print_seeds(report)
    return report.to_json()


def _train_ensemble(config: TrainConfig, arguments: Namespace) -> Result:
    from rmray.training.ensemble import train_ensemble
    from rmray.training.ensemble_plan import print_ensemble

    outcome = train_ensemble(config, resume=arguments.resume, overwrite=arguments.overwrite)
    print_ensemble(outcome)
    return outcome.to_json()


def _sweep_arguments(parser: ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--lrs", required=True, metavar="LR,LR,...", help="learning rates, such as 3e-6,1e-5,3e-5")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs per rate (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="start over; without it finished runs are kept")


def _sweep(arguments: Namespace) -> Result:
    config = _config(arguments)
    from rmray.training.sweep_plan import print_sweep, read_lrs

    lrs = read_lrs(arguments.lrs)
    from rmray.training.sweep import sweep_lr

    report = sweep_lr(config, lrs, num_seeds=arguments.seeds, overwrite=arguments.overwrite)
    print_sweep(report)
    return report.to_json()


def _score_arguments(parser: ArgumentParser) -> None:
    source.add_arguments(parser, "to score with")
    add_data_arguments(parser, "--input", "rows with a prompt and its completion, completions, or chosen and rejected")
    parser.add_argument("--output", required=True, metavar="DIR", help="where scores.jsonl is written")


def _score(arguments: Namespace) -> Result:
    source.check(arguments)
    from rmray.evaluation.score_file import score_file_from

    figures = score_file_from(
        partial(source.open_source, arguments), arguments.input, arguments.output, columns=columns_of(arguments)
    )
    print(
        f"scored {figures['scored']} of {figures['completions']} completions in {figures['rows']} rows, "
        f"{figures['bad_rows']} bad rows -> {figures['scores']}"
    )
    for code, count in figures["errors"].items():
        print(f"  {count} x {code}")
    return figures


def _import_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a sequence-classification reward model")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the bundle is written")
    parser.add_argument(
        "--reference", required=True, metavar="FILE", help="records that rewards are normalised against"
    )
    add_column_arguments(parser)
    parser.add_argument("--name", default=None, help="name of the bundle (default: the model's)")
    parser.add_argument("--max-length", type=int, default=None, metavar="TOKENS", help="longest prompt + completion")
    parser.add_argument("--pooling", choices=["auto", "last", "first", "mean"], default="auto")
    parser.add_argument("--license", default=None, metavar="NAME", help="license of the model (default: its card's)")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")


def _import(arguments: Namespace) -> Result:
    from rmray.models.bundle import import_bundle

    info = import_bundle(
        arguments.model,
        arguments.output,
        reference_file=arguments.reference,
        name=arguments.name,
        columns=columns_of(arguments),
        max_length=arguments.max_length,
        pooling=arguments.pooling,
        license=arguments.license,
        overwrite=arguments.overwrite,
    )
    print(f"wrote {arguments.output}: model version {info.model_version}")
    return {"bundle": arguments.output, "model_version": info.model_version}


def _quickstart_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--output", default="runs/quickstart", metavar="DIR", help="where everything is written")


def _quickstart(arguments: Namespace) -> Result:
    from rmray.cli.quickstart import quickstart

    return quickstart(arguments.output)


VERBS: dict[str, Verb] = {
    "quickstart": Verb("the whole path on generated data: train, evaluate, serve", _quickstart_arguments, _quickstart),
    "import": Verb("make a bundle from an existing reward model", _import_arguments, _import),
    "prepare": Verb("tokenise preference files into a prepared set", _config_arguments, _prepare, takes_overrides=True),
    "train": Verb("train a reward model on Ray", _train_arguments, _train, takes_overrides=True),
    "sweep": Verb("try learning rates and name the best", _sweep_arguments, _sweep, takes_overrides=True),
    "ensemble": Verb("combine bundles into an ensemble", ensemble.add_arguments, ensemble.run),
    "evaluate": Verb(
        "evaluate models on preference files and benchmarks", evaluate.evaluate_arguments, evaluate.run_evaluate
    ),
    "report": Verb("make the page of an evaluation", report.report_arguments, report.run_report),
    "export": Verb("make a Hub-ready directory of a bundle, with its card", export.add_arguments, export.run),
    "score": Verb("score the completions of a file", _score_arguments, _score),
    "best-of-n": Verb("pick the best of the completions of each prompt", best_of_n.add_arguments, best_of_n.run),
    "label": Verb("let a judge label pairs for training", judge.add_arguments, judge.run),
    "serve": Verb(
        "serve a bundle or a judge as an autoscaling Ray Serve app",
        serve.add_arguments,
        serve.run,
        takes_overrides=True,
        config=ServeConfig,
    ),
    "benchmark": Verb("measure speed and accuracy beside the peers", benchmark.add_arguments, benchmark.run),
}
