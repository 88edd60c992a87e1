"""The bag-of-words baseline on what is evaluated: a bounded sample of texts, and the AUC that a fit on training texts
has on it.

Called by `log`, which fills the sample, and by `figures`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rmray.data.keys import hash64, prompt_key
from rmray.evaluation.labelled.answer import LabelledExample
from rmray.evaluation.smallest_keys import SmallestKeys
from rmray.metrics.baselines import bag_of_words_scores
from rmray.metrics.process import NEUTRAL, RIGHT
from rmray.metrics.separation import Separation, separation
from rmray.schema import OutcomeExample, is_blank, plain_text

MAX_TEXTS = 10_000
MIN_TEXTS = 20
"""Fewer teach a fit nothing that a reader should see."""


NOT_APART = Separation(None, None, None)


class LabelledText(NamedTuple):
    """A completion or a step, whether it is right, and the hash of its prompt."""

    text: str
    right: bool
    prompt: int


class TextSample:
    """The MAX_TEXTS texts with the smallest keys: a fair sample. Neutral steps are neither right nor wrong, and not in
    it; nor are token ids."""

    def __init__(self, size: int = MAX_TEXTS) -> None:
        self._kept: SmallestKeys[LabelledText] = SmallestKeys(size)

    def offer(self, row_id: str, record: LabelledExample) -> None:
        prompt = prompt_key(record)
        for k, (text, right) in enumerate(_labelled_texts(record)):
            key = hash64(f"{row_id}:{k}")
            if self._kept.wants(key):
                self._kept.put({key: LabelledText(text, right, prompt)})

    def texts(self) -> list[LabelledText]:
        """By key."""
        return self._kept.values()


def sample_texts(records: Iterable[tuple[str, LabelledExample]]) -> list[LabelledText]:
    """A sample of the texts of (row id, record), for a fit."""
    sample = TextSample()
    for row_id, record in records:
        sample.offer(row_id, record)
    return sample.texts()


def texts_of(record: LabelledExample) -> list[str]:
    """The completion, or its steps; of token ids an empty text."""
    return [plain_text(record.completion)] if isinstance(record, OutcomeExample) else list(record.steps.texts)


def _labelled_texts(record: LabelledExample) -> Iterator[tuple[str, bool]]:
    labels = [record.label] if isinstance(record, OutcomeExample) else record.labels
    for text, label in zip(texts_of(record), labels, strict=True):
        if isinstance(record, OutcomeExample):
            if not is_blank(text):
                yield text, bool(label)
        elif label != NEUTRAL:
            yield text, label == RIGHT


@dataclass(frozen=True, slots=True)
class WordFigures:
    """The baseline's AUC on `texts` of what is evaluated, learnt from `fitted_texts`; all None or 0 without a fit."""

    apart: Separation = NOT_APART
    texts: int = 0
    fitted_texts: int = 0


def word_figures(
    held_out: list[LabelledText], train: list[LabelledText], *, seed: int = 0
) -> tuple[WordFigures, list[str]]:
    """The baseline's figures, and what there is to say of its fit. Training texts of prompts that are evaluated are
    left out."""
    prompts = {text.prompt for text in held_out}
    unseen = [text for text in train if text.prompt not in prompts]
    notes = []
    if len(unseen) < len(train):
        notes.append(
            f"{len(train) - len(unseen)} of {len(train)} training texts are of prompts that are evaluated: the "
            "bag-of-words baseline did not learn from them, but the model may have."
        )
    scores = None
    if len(unseen) >= MIN_TEXTS and held_out:
        scores = bag_of_words_scores(
            [text.text for text in unseen], [text.right for text in unseen], [text.text for text in held_out]
        )
    if scores is None:
        notes.append(f"There is no bag-of-words baseline: {len(unseen)} training texts teach it nothing.")
        return WordFigures(), notes
    of_prompt = np.array([text.prompt for text in held_out], dtype=np.uint64)
    apart = separation(scores, [text.right for text in held_out], of_prompt, seed=seed)
    return WordFigures(apart, len(held_out), len(unseen)), notes
