"""This evaluation beside earlier ones of the same kind of records."""

from __future__ import annotations

from collections.abc import Sequence

from rmray.evaluation.report import words
from rmray.evaluation.report.blocks import Section, Table, Text
from rmray.evaluation.report.read import View, short, short_names
from rmray.evaluation.report.sections.compare import MAX_EARLIER

COLUMNS = {
    "outcome": (("AUC", "auc"), ("accuracy", "accuracy"), ("ECE", "ece"), ("Brier", "brier")),
    "process": (("first-error F1", "first_error_f1"), ("step accuracy", "step_accuracy"), ("step AUC", "step_auc")),
}


def earlier(evaluation: View, previous: Sequence[View]) -> Section:
    kind = evaluation.parts("models")[0].text("records")
    alike = [e for e in previous if e.parts("models")[0].text("records") == kind]
    shown = [*sorted(alike, key=lambda e: e.text("created"))[-MAX_EARLIER:], evaluation]
    models = [e.parts("models")[0] for e in shown]
    created = zip(shown, models, strict=True)
    names = short_names([f"{e.text('created')[:10]} {model.text('model_name', most=32)}" for e, model in created])
    rows = [
        [name, short(", ".join(e.texts("data")), 48), *(words.with_interval(model, key) for _, key in COLUMNS[kind])]
        for name, e, model in zip(names, shown, models, strict=True)
    ]
    head = ("evaluation", "data", *(name for name, _ in COLUMNS[kind]))
    table = Table("This evaluation, the last, and earlier ones", head, rows, "ww" + "r" * len(COLUMNS[kind]))
    others = len(previous) - len(alike)
    left_out = f"{words.count(others, 'earlier evaluation')} of other records: not shown." if others else ""
    return Section(
        "comparison",
        "Comparison",
        "A difference counts when the intervals lie apart, and the data are the same.",
        (table, *([Text(left_out)] if left_out else [])) if alike else (),
        empty=f"No earlier evaluation on {kind} records was given: there is nothing to compare. {left_out}".strip(),
    )
