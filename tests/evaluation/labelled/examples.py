"""Labelled records whose probabilities are written in their texts, and their evaluation by the arithmetic fake."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rmray.errors import RowError
from rmray.evaluation.labelled.files import labelled_set
from rmray.evaluation.labelled.record import LabelledEvaluation
from rmray.evaluation.labelled.run import score_labelled
from rmray.evaluation.labelled.words import sample_texts
from rmray.evaluation.source import ScorerSource
from rmray.schema import OutcomeExample, ProcessExample, Steps
from tests.fakes import ArithmeticScorer

Example = OutcomeExample | ProcessExample


def outcome(probs: str, label: bool, prompt: str = "p") -> OutcomeExample:
    return OutcomeExample(prompt=prompt, completion=probs, label=label)


def process(probs: Sequence[str], labels: Sequence[int], prompt: str = "p") -> ProcessExample:
    return ProcessExample(prompt=prompt, steps=Steps(tuple(probs)), labels=tuple(labels))


def evaluated(records: Sequence[Example | RowError], *, train: Sequence[Example] | None = None, **options):
    kind = "process" if any(isinstance(record, ProcessExample) for record in records) else "outcome"
    source = ScorerSource(ArithmeticScorer(kind=kind))
    rows = [(f"file:{line}", line, record) for line, record in enumerate(records, start=1)]
    log = score_labelled(source, rows, sample_texts=train is not None, **options)
    texts = None if train is None else sample_texts((f"train:{i}", record) for i, record in enumerate(train))
    return labelled_set(source.info, log, kind=kind, train=texts).model


def strict_json(evaluation: LabelledEvaluation) -> dict:
    return json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
