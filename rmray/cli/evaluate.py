"""`rmray evaluate`: its options and what it calls. Used by `verbs`; the page is in `report`.

Everything else is imported late, so that --help is quick.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmray.cli.columns import add_data_arguments, columns_of, named_values
from rmray.cli.evaluate_labelled import MODELS, bundle_kinds, labelled_kind, records_argument, run_labelled
from rmray.cli.judge import JUDGE_HELP
from rmray.cli.numbers import count, seed
from rmray.cli.remote import check_remote, open_remotes, remote_arguments
from rmray.cli.report import open_page, page_arguments
from rmray.errors import ConfigError, DataError, UserError
from rmray.evaluation_file import EVALUATION_NAME, REPORT_NAME

if TYPE_CHECKING:
    from rmray.evaluation.record import EvaluationSet
    from rmray.evaluation.source import RewardSource

Result = Mapping[str, Any]


def evaluate_arguments(parser: ArgumentParser) -> None:
    # extend: an option given twice adds up, where argparse would forget the first
    many: dict[str, Any] = {"action": "extend", "nargs": "+", "default": []}
    models = parser.add_argument_group("models, the first of which is compared with the others")
    models.add_argument("--bundle", metavar="DIR", help="bundles", **many)
    models.add_argument("--served", metavar="NAME", help="served models of the Ray cluster, by name", **many)
    models.add_argument("--url", metavar="URL", help="where --served answer over HTTP instead")
    models.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key that --url asks for")
    remote_arguments(models)
    models.add_argument("--judge", metavar="FILE", help=JUDGE_HELP, **many)
    models.add_argument("--scores", metavar="FILE", help="files of scores, as `rmray score` writes them", **many)
    models.add_argument("--rule", metavar="NAME", help="plain rules to stand beside: length, shortness", **many)
    add_data_arguments(parser, "--data", "files of comparisons or of labelled records, saved datasets or Hub ids")
    records_argument(parser)
    parser.add_argument("--train", metavar="FILE", help="what the model learned from, for the baselines", **many)
    parser.add_argument("--limit", type=count, metavar="N", help="evaluate on the first N rows alone")
    parser.add_argument(
        "--adversarial", type=count, metavar="N", help="put flaws and dress-up into N comparisons and score those too"
    )
    parser.add_argument(
        "--benchmark", metavar="NAME=FILE", help="local files of a published benchmark, such as rm-bench=FILE", **many
    )
    parser.add_argument("--workers", type=count, metavar="N", help="score bundles with N actors of a Ray cluster")
    parser.add_argument("--cpus", type=float, default=1, metavar="N", help="of each of --workers")
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="of each of --workers")
    parser.add_argument("--seed", type=seed, default=0, metavar="N")
    parser.add_argument("--output", metavar="DIR", help=f"write {EVALUATION_NAME}, {REPORT_NAME} and plots here")
    page_arguments(parser)


def run_evaluate(arguments: Namespace) -> Result:
    """Open the sources, score, print the tables, and write what `--output` asks for."""
    from dataclasses import replace

    from rmray.evaluation.files import check_data
    from rmray.evaluation.table import print_evaluations

    # Whatever can be wrong is told before anything is scored, and what was scored is kept whatever fails after it.
    columns = columns_of(arguments)
    check_data(arguments.data, columns)
    benchmarks = named_values(arguments.benchmark, what="NAME=FILE", where="--benchmark")
    _check(arguments, benchmarks)
    kind = labelled_kind(arguments, bundle_kinds(arguments.bundle))
    page = open_page(arguments)
    sources = [] if arguments.workers else _open(arguments)
    if kind := kind or labelled_kind(arguments, [source.info.kind for source in sources]):
        return run_labelled(
            sources[0],
            arguments,
            kind=kind,
            columns=columns,
            page=page,
            benchmarks=partial(_benchmarks, files=benchmarks, seed=arguments.seed),
            on_progress=_progress(),
        )
    evaluations = _evaluate(sources, arguments, columns) if sources else _evaluate_distributed(arguments, columns)
    print_evaluations(evaluations)
    if page:
        page.save(evaluations.to_json())
    if sources:
        evaluations = replace(
            evaluations,
            adversarial=tuple(_adversarial(source, arguments, columns) for source in sources),
            benchmarks=tuple(_benchmarks(source, benchmarks, arguments.seed) for source in sources),
        )
    whole = evaluations.to_json()
    subject = evaluations.models[0].headline()
    others = {"models": [model.headline() for model in evaluations.models], "comparisons": whole["comparisons"]}
    named = ("disagreement", "adversarial", "benchmarks")
    more = {name: whole["models"][0][name] for name in named if whole["models"][0][name]}
    written = {**page.save(whole), **page.write(whole)} if page else {}
    return {**subject, **(others if len(evaluations.models) > 1 else {}), **more, **written}


def _check(arguments: Namespace, benchmarks: Mapping[str, list[str]]) -> None:
    from rmray.data.sources import find_files
    from rmray.evaluation.benchmarks import find_benchmark
    from rmray.evaluation.source import RULES

    if not any(getattr(arguments, name) for name in MODELS):
        raise ConfigError("no model to evaluate", next_step="give --bundle, --served, --judge, --scores or --rule")
    check_remote(arguments)
    if arguments.url and not arguments.served:
        raise ConfigError("--url says where a model is, not which one", next_step="name it with --served")
    for name in arguments.rule:
        if name not in RULES:
            raise ConfigError(f"{name!r} is no rule", where="--rule", why=f"rules: {', '.join(RULES)}")
    for name, paths in benchmarks.items():
        find_benchmark(name)
        for path in paths:
            find_files(path)
    not_spread = ("served", "remote", "judge", "scores", "adversarial", "benchmark")
    if arguments.workers and any(getattr(arguments, name) for name in not_spread):
        raise ConfigError(
            "--workers spreads bundles and rules over a cluster, and nothing else",
            next_step="leave --workers out, or --served, --remote, --judge, --scores, --adversarial and --benchmark",
        )


def _open(arguments: Namespace) -> list[RewardSource]:
    """All sources: bundles, served models, a remote one, judges, files of scores, rules."""
    from rmray.client.source import open_served
    from rmray.evaluation.recorded import ScoreFileSource

    if arguments.judge:
        from rmray.models.judge import open_judge
    if arguments.served and not arguments.url:
        from rmray.connect import join

        join()
    return [
        *open_local(arguments.bundle, ()),
        *(open_served(arguments.url, name, api_key=_api_key(arguments)) for name in arguments.served),
        *open_remotes(arguments),
        *(open_judge(path) for path in arguments.judge),
        *(ScoreFileSource(path) for path in arguments.scores),
        *open_local((), arguments.rule),
    ]


def _api_key(arguments: Namespace) -> str | None:
    if not arguments.api_key_env:
        return None
    if not os.environ.get(arguments.api_key_env):
        raise ConfigError(f"the environment variable {arguments.api_key_env} is not set", where="--api-key-env")
    return os.environ[arguments.api_key_env]


def open_local(bundles: Sequence[str], rules: Sequence[str]) -> list[RewardSource]:
    """Bundles and rules, wherever the files are to be had: here, or in an actor of a cluster."""
    from rmray.evaluation.files import open_bundle
    from rmray.evaluation.source import RULES, RuleSource

    return [*(open_bundle(directory) for directory in bundles), *(RuleSource(name, RULES[name]) for name in rules)]


def _evaluate(sources: Sequence[RewardSource], arguments: Namespace, columns: Mapping[str, str]) -> EvaluationSet:
    from rmray.evaluation.files import evaluate_files

    return evaluate_files(
        sources,
        arguments.data,
        columns=columns,
        train=arguments.train,
        limit=arguments.limit,
        seed=arguments.seed,
        on_progress=_progress(),
    )


def _evaluate_distributed(arguments: Namespace, columns: Mapping[str, str]) -> EvaluationSet:
    from rmray.evaluation.distributed import score_distributed
    from rmray.evaluation.files import read_surface, shown_names
    from rmray.evaluation.run import side_by_side

    if arguments.limit:
        raise ConfigError("--limit is of no use with --workers", next_step="leave one of them out")
    bundles = [str(Path(directory).resolve()) for directory in arguments.bundle]  # actors run in another folder
    infos, logs = score_distributed(
        partial(open_local, bundles, arguments.rule),
        arguments.data,
        num_workers=arguments.workers,
        cpus=arguments.cpus,
        gpus=arguments.gpus,
        columns=columns,
        seed=arguments.seed,
        on_progress=_progress(),
    )
    train = read_surface(arguments.train, columns) if arguments.train else None
    return side_by_side(infos, logs, data=shown_names(arguments.data), train=train, seed=arguments.seed)


def _progress() -> Callable[[int], None]:
    """Tells the rows so far on a terminal, a line each time their number has doubled."""
    import sys

    told = 4096

    def tell(num_rows: int) -> None:
        nonlocal told
        if num_rows >= told:
            print(f"{num_rows} rows scored", file=sys.stderr, flush=True)
            told *= 2

    return tell


def _adversarial(source: RewardSource, arguments: Namespace, columns: Mapping[str, str]) -> Mapping[str, Any] | None:
    if not arguments.adversarial:
        return None
    if _is_recorded(source):
        print(f"{source.info.name}: no flaws and dress-up, since it knows the scores of one file alone")
        return None
    from rmray.evaluation.adversarial import run_adversarial
    from rmray.evaluation.adversarial.table import print_adversarial
    from rmray.evaluation.files import read_comparisons
    from rmray.schema import Comparison

    comparisons = (
        (row_id, record)
        for row_id, _, record in islice(read_comparisons(arguments.data, columns), arguments.limit)
        if isinstance(record, Comparison)
    )
    try:
        result = run_adversarial(source, comparisons, max_comparisons=arguments.adversarial, seed=arguments.seed)
    except DataError as error:
        print(f"{source.info.name}: no flaws and dress-up: {error}")
        return None
    print(f"Flaws and dress-up, {source.info.name}")
    print_adversarial(result)
    return result.to_json()


def _benchmarks(source: RewardSource, files: Mapping[str, list[str]], seed: int) -> tuple[Mapping[str, Any], ...]:
    if files and _is_recorded(source):
        print(f"{source.info.name}: no benchmark, since it knows the scores of one file alone")
        return ()
    from rmray.evaluation.benchmarks import run_benchmark
    from rmray.evaluation.table import print_benchmark

    results = []
    for name, paths in files.items():
        try:
            result = run_benchmark(name, paths, source, seed=seed)
        except UserError as error:
            print(f"{source.info.name}: no {name}: {error}")
            continue
        print_benchmark(source.info.name, result)
        results.append(result.to_json())
    return tuple(results)


def _is_recorded(source: RewardSource) -> bool:
    """Whether it knows the scores of one file alone."""
    return source.info.kind == "recorded"
