"""`rmray evaluate` on labelled records: which records are meant, what does not go with them, and the run. Used by
`evaluate`; heavy imports are late."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmray.errors import ConfigError

if TYPE_CHECKING:
    from rmray.cli.report import Page
    from rmray.evaluation.labelled.record import Kind
    from rmray.evaluation.source import RewardSource

Result = Mapping[str, Any]
Benchmarks = Callable[["RewardSource"], tuple[Mapping[str, Any], ...]]
"""Runs the benchmarks that were asked for with a source."""

COMPARISONS = "comparisons"
LABELLED: tuple[Kind, ...] = ("outcome", "process")
MODELS = ("bundle", "served", "remote", "judge", "scores", "rule")


def records_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--records",
        choices=(COMPARISONS, *LABELLED),
        help="what the data's rows are; by default an outcome or a process model reads its own, all others comparisons",
    )


def labelled_kind(arguments: Namespace, kinds: Iterable[str]) -> Kind | None:
    """The kind of labelled records that the data are, by --records or else by the models' kinds; None: comparisons.

    Raises ConfigError for what does not go with labelled records.
    """
    names = [arguments.records] if arguments.records else kinds
    found = next((kind for kind in LABELLED if kind in names), None)
    if found is None:
        return None
    given = [arguments.remote] if arguments.remote else []
    models = [*given, *(name for option in MODELS if option != "remote" for name in getattr(arguments, option))]
    refused = {
        "several models": len(models) > 1,
        "--workers": arguments.workers,
        "--adversarial": arguments.adversarial,
    }
    for what, is_given in refused.items():
        if is_given:
            raise ConfigError(
                f"{what} cannot be had on {found} records",
                where="--records",
                why="one model is evaluated on them at a time, in this process",
                next_step=f"leave it out, or evaluate on comparisons: --records {COMPARISONS}",
            )
    return found


def bundle_kinds(directories: Sequence[str]) -> list[str]:
    """The kind of each bundle, by its manifest alone. Raises BundleError."""
    from rmray.models.bundle.manifest import read_manifest

    return [read_manifest(Path(directory)).kind for directory in directories]


def run_labelled(
    source: RewardSource,
    arguments: Namespace,
    *,
    kind: Kind,
    columns: Mapping[str, str],
    page: Page | None,
    benchmarks: Benchmarks,
    on_progress: Callable[[int], None],
) -> Result:
    """Score, print the table, and write what `--output` asks for; what was scored is kept whatever fails after it."""
    from rmray.evaluation.labelled.files import evaluate_labelled_files
    from rmray.evaluation.labelled.table import print_labelled

    evaluated = evaluate_labelled_files(
        source,
        arguments.data,
        kind=kind,
        columns=columns,
        train=arguments.train,
        limit=arguments.limit,
        seed=arguments.seed,
        on_progress=on_progress,
    )
    print_labelled(evaluated.model)
    if page:
        page.save(evaluated.to_json())
    evaluated = replace(evaluated, benchmarks=benchmarks(source))
    whole = evaluated.to_json()
    written = {**page.save(whole), **page.write(whole)} if page else {}
    more = {"benchmarks": list(evaluated.benchmarks)} if evaluated.benchmarks else {}
    return {**evaluated.model.headline(), **more, **written}
