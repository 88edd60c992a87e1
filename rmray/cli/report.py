"""`rmray report`, and the page that `rmray evaluate --output` writes too. Used by `verbs` and `evaluate`.

Everything else is imported late, so that --help is quick.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmray.errors import DataError
from rmray.evaluation_file import EVALUATION_NAME, PLOTS_NAME, REPORT_NAME

Result = Mapping[str, Any]

if TYPE_CHECKING:
    from rmray.evaluation.report import RunFacts


def report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("evaluation", metavar=EVALUATION_NAME, help="as `rmray evaluate --output` wrote it")
    parser.add_argument("--output", metavar="DIR", required=True, help=f"write {REPORT_NAME} and plots here")
    page_arguments(parser)


def page_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--run", dest="run_dir", metavar="DIR", help="run directory, for the page's training curves")
    parser.add_argument(
        "--previous", nargs="+", default=[], metavar="FILE", help=f"{EVALUATION_NAME} of earlier models, for the page"
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Where the page goes, and what stands on it beside the evaluation."""

    directory: Path
    run: RunFacts | None
    previous: list[dict[str, Any]]

    def save(self, evaluation: Mapping[str, Any]) -> dict[str, str]:
        from rmray.evaluation.record import save_evaluation

        path = self.directory / EVALUATION_NAME
        save_evaluation(path, evaluation)
        return {"evaluation": str(path)}

    def write(self, evaluation: Mapping[str, Any]) -> dict[str, str]:
        from rmray.evaluation.report import write_plots, write_report

        report, plots = self.directory / REPORT_NAME, self.directory / PLOTS_NAME
        write_report(report, evaluation, run=self.run, previous=self.previous)
        write_plots(plots, evaluation, run=self.run)
        print(f"wrote {report}")
        return {"report": str(report), "plots": str(plots)}


def open_page(arguments: Namespace) -> Page | None:
    """The page that `--output` asks for, with its folder made and everything else on it read."""
    if not arguments.output:
        return None
    from rmray.evaluation.record import load_evaluation
    from rmray.evaluation.report import read_run_facts

    directory = Path(arguments.output)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("the output is no directory to write to", where=arguments.output, why=str(error)) from error
    return Page(
        directory,
        read_run_facts(Path(arguments.run_dir)) if arguments.run_dir else None,
        [load_evaluation(Path(path)) for path in arguments.previous],
    )


def run_report(arguments: Namespace) -> Result:
    """Make the page and the plots of an evaluation that is there already."""
    from rmray.evaluation.record import load_evaluation

    evaluation = load_evaluation(Path(arguments.evaluation))
    page = open_page(arguments)
    assert page is not None  # --output is required here
    return page.write(evaluation)
