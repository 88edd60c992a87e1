"""From a log of solutions judged step by step to their evaluation. Pure. Called by `files`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

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
from rmray.metrics.process import NEUTRAL, RIGHT, ProcessMetrics, called_metrics
from rmray.metrics.separation import separation
from rmray.models.scorer import ScorerInfo


def summarize_processes(
    log: LabelledLog, info: ScorerInfo, *, train: list[LabelledText] | None = None, seed: int = 0
) -> LabelledEvaluation:
    """All figures of one scorer on solutions in steps. A solution is right where no step is wrong.

    train: a sample of training steps, for the bag-of-words baseline. Raises DataError where none was scored.
    """
    check_scored(log, info.name)
    columns = log.columns()
    ends = np.cumsum(columns.sizes_E)[:-1]
    metrics = called_metrics(
        np.split(columns.called_S, ends),
        np.split(columns.probs_S, ends),
        np.split(columns.labels_S, ends),
        columns.prompts_E,
        called_errors=columns.errors_E.tolist(),
        seed=seed,
    )
    is_told = columns.labels_S != NEUTRAL
    right_S, probs_S = columns.labels_S[is_told] == RIGHT, columns.probs_S[is_told]
    length = separation(columns.chars_S[is_told], right_S, columns.prompts_S[is_told], seed=seed)
    rivals, words, word_notes = baselines(log, length, train, seed=seed)
    return LabelledEvaluation(
        model_name=info.name,
        model_version=info.model_version,
        kind=info.kind,
        records="process",
        rows=log.num_rows,
        quarantined=dict(sorted(log.quarantined.items())),
        failed=dict(sorted(log.failed.items())),
        metrics=metrics,
        aggregates=by_aggregate(columns, seed=seed),
        baselines={"majority_accuracy": metrics.majority_accuracy, **rivals},
        notes=(
            *prompt_notes(metrics.prompts),
            *chance_notes(metrics.step_auc_low, metrics.step_auc_high, "steps"),
            *_process_notes(metrics),
            *rival_notes(metrics.step_auc_low, rivals),
            *word_notes,
            *left_out_notes(log.quarantined, log.failed, log.examples),
        ),
        details={
            "bag_of_words": {"texts": words.texts, "fitted_texts": words.fitted_texts},
            "probabilities": probabilities(probs_S, right_S),
            "reliability": reliability(probs_S, right_S),
            **left_out_details(log),
        },
    )


def _process_notes(metrics: ProcessMetrics) -> Iterator[str]:
    if metrics.step_accuracy_low <= metrics.majority_accuracy:
        yield (
            f"Giving every step the most frequent label has an accuracy of {metrics.majority_accuracy:.3f}: the model "
            "is not clearly better."
        )
    if metrics.first_error_f1 is None:
        missing = "a wrong step" if not metrics.error_solutions else "none"
        yield f"There is no F1 of the first error: no solution has {missing}."
