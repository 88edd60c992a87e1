"""From a log of outcomes to their evaluation. Pure. Called by `files`."""

from __future__ import annotations

from collections.abc import Iterator

from rmray.evaluation.labelled.figures import (
    baselines,
    by_aggregate,
    chance_notes,
    check_scored,
    left_out_details,
    probabilities,
    prompt_notes,
    reliability,
    rival_notes,
)
from rmray.evaluation.labelled.log import LabelledLog
from rmray.evaluation.labelled.record import LabelledEvaluation
from rmray.evaluation.labelled.words import LabelledText
from rmray.evaluation.left_out import left_out_notes
from rmray.metrics.bias import spearman
from rmray.metrics.outcome import OutcomeMetrics, outcome_metrics
from rmray.metrics.separation import separation
from rmray.models.scorer import ScorerInfo


def summarize_outcomes(
    log: LabelledLog, info: ScorerInfo, *, train: list[LabelledText] | None = None, seed: int = 0
) -> LabelledEvaluation:
    """All figures of one scorer on outcomes. A completion's probability is the mean of its tokens'.

    train: a sample of training texts, for the bag-of-words baseline. Raises DataError where none was scored.
    """
    check_scored(log, info.name)
    columns = log.columns()
    metrics = outcome_metrics(columns.mean_E, columns.right_E, columns.prompts_E, seed=seed)
    length = separation(columns.chars_E, columns.right_E, columns.prompts_E, seed=seed)
    rivals, words, word_notes = baselines(log, length, train, seed=seed)
    return LabelledEvaluation(
        model_name=info.name,
        model_version=info.model_version,
        kind=info.kind,
        records="outcome",
        rows=log.num_rows,
        quarantined=dict(sorted(log.quarantined.items())),
        failed=dict(sorted(log.failed.items())),
        metrics=metrics,
        aggregates=by_aggregate(columns, seed=seed),
        baselines=rivals,
        notes=(
            *prompt_notes(metrics.prompts),
            *chance_notes(metrics.auc_low, metrics.auc_high, "completions"),
            *_majority_notes(metrics),
            *rival_notes(metrics.auc_low, rivals),
            *word_notes,
            *left_out_notes(log.quarantined, log.failed, log.examples),
        ),
        details={
            "bag_of_words": {"texts": words.texts, "fitted_texts": words.fitted_texts},
            "length_spearman": spearman(columns.mean_E, columns.chars_E),
            "probabilities": probabilities(columns.mean_E, columns.right_E),
            "reliability": reliability(columns.mean_E, columns.right_E),
            **left_out_details(log),
        },
    )


def _majority_notes(metrics: OutcomeMetrics) -> Iterator[str]:
    if metrics.accuracy_low <= metrics.majority_accuracy:
        word = "right" if 2 * metrics.positives >= metrics.examples else "wrong"
        yield (
            f"Calling every completion {word} has an accuracy of {metrics.majority_accuracy:.3f}: at 0.5 the model is "
            "not clearly better."
        )
