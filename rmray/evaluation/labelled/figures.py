"""From a log of labelled records to an evaluation: the parts that outcomes and processes share. Pure.

Called by `outcome` and `process`. Every number is finite, and what cannot be had is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from rmray.errors import DataError
from rmray.evaluation.figures import SHOWN_CHARS, shown
from rmray.evaluation.labelled.log import Columns, LabelledLog, WrongExample
from rmray.evaluation.labelled.words import LabelledText, WordFigures, word_figures
from rmray.evaluation.left_out import counted, left_out_notes, quarantine_examples
from rmray.metrics.calibration import reliability_bins
from rmray.metrics.process import first_error
from rmray.metrics.ranking import Bools, Floats
from rmray.metrics.separation import Separation, separation
from rmray.schema import OutcomeExample

NUM_BINS = 20
CHANCE = 0.5

Section = dict[str, Any]


def check_scored(log: LabelledLog, name: str) -> None:
    """Raise DataError, with the counts, where no record was scored."""
    if log.num_examples:
        return
    if not log.num_rows:
        raise DataError("there is nothing to evaluate", why="not one row was read", next_step="check the data's path")
    counts = f"{counted(log.num_rows, 'row')} read."
    raise DataError(
        "no record could be scored",
        where=name,
        why=" ".join([counts, *left_out_notes(log.quarantined, log.failed, log.examples)]),
        next_step="mend the rows named, or the mapping; with --records comparisons, comparisons are read",
    )


def by_aggregate(columns: Columns, *, seed: int) -> dict[str, dict[str, float | None]]:
    """How well the mean, the smallest and the product tell right examples from wrong ones."""
    values = {"mean": columns.mean_E, "min": columns.min_E, "product": columns.product_E}
    right_E, prompts_E = columns.right_E, columns.prompts_E
    return {name: asdict(separation(prob_E, right_E, prompts_E, seed=seed)) for name, prob_E in values.items()}


def baselines(
    log: LabelledLog, length: Separation, train: list[LabelledText] | None, *, seed: int
) -> tuple[dict[str, float | None], WordFigures, list[str]]:
    """AUC of "longer is right" and of the bag of words with their intervals, how the latter was fitted, and notes.

    train: a sample of training texts; without it there is no bag of words.
    """
    words = WordFigures()
    notes: list[str] = []
    if train is not None and log.texts is not None:
        words, notes = word_figures(log.texts.texts(), train, seed=seed)
    figures = {
        f"{rule}_{name}": value
        for rule, apart in (("length_rule", length), ("bag_of_words", words.apart))
        for name, value in asdict(apart).items()
    }
    return figures, words, notes


def probabilities(probs: Floats, right: Bools) -> Section:
    """Counts of the probabilities of right and of wrong ones, in bins of equal width."""
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
    counts = {name: np.histogram(probs[of], bins=edges)[0] for name, of in (("right", right), ("wrong", ~right))}
    return {"edges": edges.tolist(), **{name: [int(n) for n in found] for name, found in counts.items()}}


def reliability(probs: Floats, right: Bools) -> list[Section]:
    """Ten bins of claimed probabilities with what they came to; none where there is no claim."""
    return [asdict(one) for one in reliability_bins(probs, right)] if len(probs) else []


def left_out_details(log: LabelledLog) -> Section:
    return {
        "worst": [_worst_json(example) for example in log.worst()],
        "quarantine_examples": quarantine_examples(log.examples),
    }


def chance_notes(auc_low: float | None, auc_high: float | None, what: str) -> Iterator[str]:
    if auc_low is None or auc_high is None:
        yield f"All {what} are of one kind: there is nothing to tell apart, and so no AUC."
    elif auc_low <= CHANCE <= auc_high:
        yield f"The AUC of {what} cannot be told from chance, 0.5."


def rival_notes(auc_low: float | None, baselines: dict[str, float | None]) -> Iterator[str]:
    """Of what reads no meaning and is not clearly beaten. Length tells as much where shorter ones are right."""
    length, words = baselines["length_rule_auc"], baselines["bag_of_words_auc"]
    if length is not None and auc_low is not None and auc_low <= max(length, 1 - length):
        way = "longer" if length >= CHANCE else "shorter"
        yield f"'{way} is right' has an AUC of {max(length, 1 - length):.3f}: the model is not clearly better."
    if words is not None and auc_low is not None and auc_low <= words:
        yield f"A bag of words has an AUC of {words:.3f}: the model is not clearly better."


def prompt_notes(prompts: int) -> Iterator[str]:
    if prompts == 1:
        yield "All rows are of one prompt: they say nothing about other prompts (interval 0 to 1)."


def _worst_json(example: WrongExample) -> Section:
    record, answer = example.record, example.answer
    if isinstance(record, OutcomeExample):
        texts = [shown(record.completion)]
        own: Section = {"label": record.label, "prob": answer.aggregates.mean, "completion": _cut(texts[0])}
    else:
        texts = list(record.steps.texts)
        own = {
            "first_error": first_error(record.labels),
            "called_error": answer.called_error,
            "steps": [
                [_cut(text), label, prob]
                for text, label, prob in zip(texts, record.labels, answer.right_probs, strict=True)
            ],
        }
    prompt = shown(record.prompt)
    return {
        "row_id": example.row_id,
        "source": record.source,
        "loss": example.loss,
        "prompt": _cut(prompt),
        "cut": any(len(text) > SHOWN_CHARS for text in (prompt, *texts)),
        **own,
    }


def _cut(text: str) -> str:
    return text[:SHOWN_CHARS]
