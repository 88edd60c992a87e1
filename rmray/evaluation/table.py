"""Show an Evaluation in a terminal. Called by the command line."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rmray.evaluation.record import Evaluation, accuracy_name

LEGEND = "accuracy on human preferences: 0.5 is chance, 0.65-0.75 good, 0.75-0.85 excellent"


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print the table, its legend and the notes; plain text where the console is no terminal."""
    (console or Console()).print(build_report(evaluation))


def build_report(evaluation: Evaluation) -> Group:
    """The table with its legend, and one line a note."""
    notes = [Text(f"- {note}") for note in evaluation.notes]
    return Group(_table(evaluation), Text(LEGEND, style="dim"), *notes)


def _table(e: Evaluation) -> Table:
    title = f"{e.model_name} ({e.model_version[:12]}) on {e.pairs} pairs of {e.prompts} prompts"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    table.add_column("reads as")
    table.add_row(
        "accuracy", f"{e.accuracy:.3f}", _interval(e.accuracy_low, e.accuracy_high), accuracy_name(e.accuracy)
    )
    table.add_row(
        "length-only rule",
        f"{e.length_rule_accuracy:.3f}",
        _interval(e.length_rule_low, e.length_rule_high),
        "accuracy of 'more characters wins'",
    )
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


def _interval(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"
