"""Show an Evaluation in a terminal. Called by the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rmray.evaluation.benchmarks import BenchmarkResult, Section
from rmray.evaluation.comparison import ModelComparison
from rmray.evaluation.record import Evaluation, EvaluationSet, accuracy_name

LEGEND = "accuracy on human preferences: 0.5 is chance, 0.65-0.75 good, 0.75-0.85 excellent"


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the table, its legend and the notes; plain text where the console is no terminal."""
    (console or Console()).print(build_report(evaluation))


def print_evaluations(evaluations: EvaluationSet, console: Console | None = None) -> None:
    """As `print_evaluation` for each model, then how they compare."""
    console = console or Console()
    for evaluation in evaluations.models:
        print_evaluation(evaluation, console)
    if evaluations.comparisons:
        console.print(_comparison_table(evaluations.comparisons))


def print_benchmark(model_name: str, result: BenchmarkResult, console: Console | None = None) -> None:
    """A benchmark's headline, its sections and its notes."""
    table = Table(title=Text(f"{result.title} of {model_name}: {result.metric}"), title_justify="left")
    for column in ("section", "score", "95% interval", "items"):
        table.add_column(column, justify="right" if column in ("score", "items") else "left")
    rows: list[tuple[str, Section | BenchmarkResult, str]] = [(row.name, row, "") for row in result.sections]
    rows.append(("overall", result, "bold"))
    for name, row, style in rows:
        score = "-" if row.score is None else f"{row.score:.3f}"
        low, high = row.score_low, row.score_high
        interval = "" if low is None or high is None else _interval(low, high)
        table.add_row(Text(name), score, interval, f"{row.items}", style=style)
    console = console or Console()
    console.print(Group(table, *(Text(f"- {note}") for note in result.notes)))


def _comparison_table(comparisons: Sequence[ModelComparison]) -> Table:
    subject = comparisons[0].first
    table = Table(title=Text(f"{subject} beside the others, on the same pairs"), title_justify="left")
    for column in ("model", "pairs", "accuracy difference", "95% interval", "same verdict", "Kendall tau-b"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for c in comparisons:
        if c.difference is None:
            table.add_row(Text(c.second), "0", "-", "-", "-", "-")
            continue
        table.add_row(
            Text(c.second),
            f"{c.pairs}",
            f"{c.difference:+.3f}",
            f"{c.difference_low:+.3f} to {c.difference_high:+.3f}",
            f"{c.same_verdict:.1%}",
            "-" if c.kendall is None else f"{c.kendall:.3f}",
        )
    return table


def build_report(evaluation: Evaluation) -> Group:
    """The table with its legend, and one line a note."""
    notes = [Text(f"- {note}") for note in evaluation.notes]
    return Group(_table(evaluation), Text(LEGEND, style="dim"), *notes)


def _table(e: Evaluation) -> Table:
    pairs, prompts = (f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in ((e.pairs, "pair"), (e.prompts, "prompt")))
    title = f"{e.model_name} ({e.model_version[:12]}) on {pairs} of {prompts}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    table.add_column("reads as")
    table.add_row(
        "accuracy",
        f"{e.accuracy:.3f}",
        _interval(e.accuracy_low, e.accuracy_high),
        accuracy_name(e.accuracy, e.accuracy_low),
    )
    table.add_row(
        "length-only rule",
        f"{e.length_rule_accuracy:.3f}",
        _interval(e.length_rule_low, e.length_rule_high),
        f"'more characters wins'{_tied(e.length_rule_ties)}",
    )
    if surface := e.details.get("surface"):
        table.add_row(
            "surface baseline",
            f"{surface['accuracy']:.3f}",
            _interval(surface["accuracy_low"], surface["accuracy_high"]),
            f"form alone, from {surface['fitted_on']}{_tied(surface['ties'])}",
        )
    if disagreement := e.details.get("disagreement"):
        _add_disagreement(table, disagreement)
    temperature = "-" if e.temperature is None else f"{e.temperature:.4g}"
    rest = [
        ("ties", f"{e.ties}", f"{e.ties / e.pairs:.1%} of pairs, none counted as won"),
        ("margin", f"{e.margin:.4g}", "mean score gap, chosen - rejected"),
        ("mean chosen", f"{e.mean_chosen:.4g}", "raw score"),
        ("mean rejected", f"{e.mean_rejected:.4g}", "raw score"),
        ("ECE", f"{e.ece:.4f}", "0 is calibrated"),
        ("Brier", f"{e.brier:.4f}", "0.25 is a coin's, lower is better"),
        ("temperature", temperature, "above 1: overconfident"),
        ("rows", f"{e.rows}", f"{e.comparisons} comparisons + {sum(e.quarantined.values())} quarantined"),
        ("pairs left out", f"{e.unscored_pairs}", f"{sum(e.failed.values())} completions without a score"),
    ]
    for name, value, meaning in rest:
        table.add_row(name, value, "", meaning)
    return table


def _add_disagreement(table: Table, found: Mapping[str, Any]) -> None:
    """How right the members of an ensemble are alone, and whether they disagree where it is wrong."""
    accuracies = [member["accuracy"] for member in found["members"]]
    table.add_row(
        "members alone",
        f"{sum(accuracies) / len(accuracies):.3f}",
        "",
        f"mean accuracy of {len(accuracies)}, from {min(accuracies):.3f} to {max(accuracies):.3f}",
    )
    if found["auroc"] is None:
        value, interval, meaning = "-", "", "no pair is lost" if not found["errors"] else "no pair is won"
    else:
        value, interval = f"{found['auroc']:.3f}", _interval(found["auroc_low"], found["auroc_high"])
        meaning = "AUROC for lost pairs: 0.5 says nothing, 1 marks them all"
    table.add_row("disagreement", value, interval, meaning)
    parts = [f"{part['accuracy']:.3f}" for part in found["quartiles"]]
    if len(parts) > 1:
        table.add_row("where members agree", parts[0], "", f"accuracy by disagreement, least first: {' '.join(parts)}")


def _tied(ties: int) -> str:
    return f"; {ties} ties" if ties else ""


def _interval(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"
