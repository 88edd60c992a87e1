"""Show an evaluation of labelled records in a terminal. Called by the command line."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rmray.evaluation.labelled.record import LabelledEvaluation
from rmray.metrics.outcome import OutcomeMetrics
from rmray.metrics.process import ProcessMetrics

LEGEND = "AUC: the chance that a right one scores above a wrong one; 0.5 is chance"

Row = tuple[str, float | None, float | None, float | None, str]
"""Figure, value, both ends of its interval, and what it reads as."""


def print_labelled(evaluation: LabelledEvaluation, console: Console | None = None) -> None:
    """Print the table, its legend and the notes; plain text where the console is no terminal."""
    notes = [Text(f"- {note}") for note in evaluation.notes]
    (console or Console()).print(Group(_table(evaluation), Text(LEGEND, style="dim"), *notes))


def _table(e: LabelledEvaluation) -> Table:
    metrics = e.metrics
    what = _counts(metrics)
    table = Table(title=Text(f"{e.model_name} ({e.model_version[:12]}) on {what}"), title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    table.add_column("reads as")
    rows = _outcome_rows(metrics) if isinstance(metrics, OutcomeMetrics) else _process_rows(metrics)
    for name, value, low, high, meaning in (*rows, *_baseline_rows(e), *_aggregate_rows(e)):
        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        table.add_row(name, "-" if value is None else f"{value:.3f}", interval, meaning)
    left_out = f"{sum(e.failed.values())} without a score, {sum(e.quarantined.values())} quarantined"
    table.add_row("rows", f"{e.rows}", "", left_out)
    return table


def _counts(metrics: OutcomeMetrics | ProcessMetrics) -> str:
    if isinstance(metrics, OutcomeMetrics):
        return f"{metrics.examples} completions of {metrics.prompts} prompts"
    return f"{metrics.steps} steps of {metrics.solutions} solutions of {metrics.prompts} prompts"


def _outcome_rows(m: OutcomeMetrics) -> list[Row]:
    right = f"{m.positives} of {m.examples} are right"
    return [
        ("AUC", m.auc, m.auc_low, m.auc_high, right),
        ("accuracy", m.accuracy, m.accuracy_low, m.accuracy_high, "at a probability of 0.5"),
        ("majority", m.majority_accuracy, None, None, "accuracy of always the more frequent label"),
        ("ECE", m.ece, None, None, "0 is calibrated"),
        ("Brier", m.brier, None, None, "0.25 is a coin's, lower is better"),
    ]


def _process_rows(m: ProcessMetrics) -> list[Row]:
    labels = f"{m.wrong_steps} wrong, {m.neutral_steps} neutral, {m.right_steps} right"
    f1 = (m.first_error_f1, m.first_error_f1_low, m.first_error_f1_high)
    return [
        ("first-error F1", *f1, "harmonic mean of the next two"),
        ("accuracy, error", m.error_accuracy, None, None, f"first wrong step named, of {m.error_solutions}"),
        ("accuracy, right", m.right_accuracy, None, None, f"no step named, of {m.right_solutions}"),
        ("step accuracy", m.step_accuracy, m.step_accuracy_low, m.step_accuracy_high, labels),
        ("majority", m.majority_accuracy, None, None, "accuracy of always the most frequent label"),
        ("two-way accuracy", m.two_way_accuracy, None, None, "wrong and right steps, at a probability of 0.5"),
        ("step AUC", m.step_auc, m.step_auc_low, m.step_auc_high, "right steps against wrong ones"),
    ]


def _baseline_rows(e: LabelledEvaluation) -> list[Row]:
    fitted = e.details["bag_of_words"]["fitted_texts"]
    named = (
        ("length-only rule", "length_rule", "AUC of 'longer is right'"),
        ("bag of words", "bag_of_words", f"AUC; fitted on {fitted} training texts" if fitted else "not fitted"),
    )
    return [
        (name, *(e.baselines[f"{key}_{end}"] for end in ("auc", "auc_low", "auc_high")), meaning)  # type: ignore[misc]
        for name, key, meaning in named
    ]


def _aggregate_rows(e: LabelledEvaluation) -> list[Row]:
    whole = "whole completions" if e.records == "outcome" else "whole solutions"
    return [
        (f"AUC by {name}", figures["auc"], figures["auc_low"], figures["auc_high"], whole)
        for name, figures in e.aggregates.items()
    ]
