"""The card's evaluation of an outcome or process model on labelled records. Called by `figures` and `front_matter`.

As there, a figure may be null: then a dash stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmray.models.bundle.card.markdown import count, interval, number, table

AUC_LEGEND = "AUC is the chance that a right one scores above a wrong one: 0.5 is chance."
RESULTS = {
    "outcome": (
        ("roc_auc", "auc", "AUC of right against wrong completions"),
        ("accuracy", "accuracy", "Accuracy at a probability of 0.5"),
        ("ece", "ece", "Expected calibration error (10 bins)"),
        ("brier_score", "brier", "Brier score"),
    ),
    "process": (
        ("f1", "first_error_f1", "F1 of the first wrong step"),
        ("accuracy", "step_accuracy", "Accuracy of wrong, neutral and right steps"),
        ("roc_auc", "step_auc", "AUC of right against wrong steps"),
    ),
}
"""By kind of records: type of the metric, key of the figure, and its name."""


def of_what(model: Mapping[str, Any]) -> str:
    """How much was scored."""
    prompts = f"{count(model.get('prompts'))} prompts"
    if model.get("records") == "process":
        return f"{count(model.get('steps'))} steps of {count(model.get('solutions'))} solutions to {prompts}"
    return f"{count(model.get('examples'))} completions of {prompts}, {count(model.get('positives'))} of them right"


def labelled_tables(model: Mapping[str, Any]) -> list[str]:
    """The figures with their intervals, what reads no meaning beside them, and the aggregates."""
    is_process = model.get("records") == "process"
    rivals = (model.get("baselines") or {}) if is_process else model
    rows = [[name, number(model.get(key)), interval(model, key)] for _, key, name in RESULTS[model["records"]]]
    if is_process:
        for key, name in (("error_accuracy", "First wrong step named"), ("right_accuracy", "Right ones left alone")):
            rows.append([name, number(model.get(key)), "—"])
    rows += [
        ["Accuracy of always the most frequent label", number(model.get("majority_accuracy")), "—"],
        ["AUC of “longer is right”", number(rivals.get("length_rule_auc")), interval(rivals, "length_rule_auc")],
        ["AUC of a bag of words", number(rivals.get("bag_of_words_auc")), interval(rivals, "bag_of_words_auc")],
    ]
    head = ["Figure", "Value", "95% interval"]
    aggregates = model.get("aggregates") or {}
    by_aggregate = [
        [f"{name.capitalize()} of the probabilities", number(of.get("auc")), interval(of, "auc")]
        for name, of in aggregates.items()
    ]
    whole = "solutions" if is_process else "completions"
    return [*table(head, rows), *table([f"AUC of whole {whole} by", *head[1:]], by_aggregate)]
