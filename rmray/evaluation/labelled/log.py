"""The numbers of all labelled records, and the texts of the few worst. Filled by `run`, read by `outcome`, `process`.

Legend: E examples (completions, solutions), S steps of all solutions, one after the other.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.data.keys import hash64, prompt_key
from rmray.errors import RowError
from rmray.evaluation.labelled.answer import Answer, LabelledExample, read_answer
from rmray.evaluation.labelled.words import TextSample, texts_of
from rmray.metrics.process import NEUTRAL, RIGHT, WRONG
from rmray.metrics.ranking import Bools, Floats
from rmray.schema import ItemResult, OutcomeExample, ScoreFailure, num_chars

WORST_EXAMPLES = 20

_EXAMPLE_COLUMNS = {
    "mean": "d", "min": "d", "product": "d", "right": "B", "chars": "I", "prompts": "Q", "errors": "i", "sizes": "I",
}  # fmt: skip
_STEP_COLUMNS = {"probs": "d", "called": "b", "labels": "b", "chars": "I"}


@dataclass(frozen=True, slots=True)
class WrongExample:
    """An example that the model gets wrong. loss: how far the probability in question is from its label, over 0.5."""

    row_id: str
    record: LabelledExample
    answer: Answer
    loss: float


@dataclass(frozen=True, slots=True)
class Columns:
    """All numbers as arrays. mean_E, min_E, product_E: aggregates of the probabilities. right_E: the label, of a
    solution that no step is wrong. prompts_E: hash of the prompt. errors_E: called first error. sizes_E: steps.

    probs_S, called_S, labels_S: of each step; prompts_S: its solution's.
    """

    mean_E: Floats
    min_E: Floats
    product_E: Floats
    right_E: Bools
    chars_E: npt.NDArray[np.int64]
    prompts_E: npt.NDArray[np.uint64]
    errors_E: npt.NDArray[np.int64]
    sizes_E: npt.NDArray[np.int64]
    probs_S: Floats
    called_S: npt.NDArray[np.int64]
    labels_S: npt.NDArray[np.int64]
    chars_S: npt.NDArray[np.int64]
    prompts_S: npt.NDArray[np.uint64]


class LabelledLog:
    """Numbers of all examples so far: some 50 bytes each and 14 a step, and no texts but those of WORST_EXAMPLES.

    sample_texts: keep a bounded sample of texts too, for the bag-of-words baseline.
    """

    def __init__(self, *, sample_texts: bool = False) -> None:
        self.num_rows = 0
        self.quarantined: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.texts = TextSample() if sample_texts else None
        self._examples = {name: array(code) for name, code in _EXAMPLE_COLUMNS.items()}
        self._steps = {name: array(code) for name, code in _STEP_COLUMNS.items()}
        self._worst: list[tuple[float, int]] = []  # a heap of losses and keys, the least wrong first
        self._worst_examples: dict[int, WrongExample] = {}

    @property
    def num_examples(self) -> int:
        return len(self._examples["mean"])

    def add_quarantined(self, error: RowError, *, default_where: str) -> None:
        self.num_rows += 1
        self.quarantined[error.code] += 1
        self.examples.setdefault(f"quarantined {error.code}", f"{error.where or default_where}: {error.what}")

    def add(self, row_id: str, record: LabelledExample, result: ItemResult) -> None:
        """Take in one example and what it got."""
        self.num_rows += 1
        answer = read_answer(record, result)
        if isinstance(answer, ScoreFailure):
            self.failed[answer.code] += 1
            self.examples.setdefault(f"failed {answer.code}", f"row {row_id}: {answer.message}")
            return
        prompt, is_outcome = prompt_key(record), isinstance(record, OutcomeExample)
        labels = () if isinstance(record, OutcomeExample) else record.labels
        texts = texts_of(record)
        row: dict[str, Any] = {
            **answer.aggregates._asdict(),
            "right": record.label if isinstance(record, OutcomeExample) else WRONG not in labels,
            "chars": num_chars(record.completion) if isinstance(record, OutcomeExample) else sum(map(len, texts)),
            "prompts": prompt,
            "errors": answer.called_error,
            "sizes": len(labels),
        }
        for name, value in row.items():
            self._examples[name].append(value)
        if not is_outcome:
            of_steps: dict[str, Sequence[Any]] = {
                "probs": answer.right_probs, "called": answer.called, "labels": labels, "chars": [*map(len, texts)],
            }  # fmt: skip
            for name, values in of_steps.items():
                self._steps[name].extend(values)
        if self.texts is not None:
            self.texts.offer(row_id, record)
        self._keep_if_worst(WrongExample(row_id, record, answer, _loss(record, answer)))

    def columns(self) -> Columns:
        """Everything as arrays."""
        examples, steps = _as_arrays(self._examples), _as_arrays(self._steps)
        prompts_E = np.frombuffer(self._examples["prompts"], dtype=np.uint64)
        return Columns(
            **{f"{name}_S": values for name, values in steps.items()},
            **{f"{name}_E": values for name, values in examples.items() if name not in ("right", "prompts")},
            right_E=examples["right"].astype(np.bool_),
            prompts_E=prompts_E,
            prompts_S=np.repeat(prompts_E, examples["sizes"]),
        )

    def worst(self) -> list[WrongExample]:
        """The examples that are furthest from their label, the worst first; of equal ones a hash decides."""
        return [self._worst_examples[key] for _, key in sorted(self._worst, reverse=True)]

    def _keep_if_worst(self, example: WrongExample) -> None:
        entry = (example.loss, hash64(example.row_id))
        full = len(self._worst) == WORST_EXAMPLES
        if example.loss <= 0.5 or entry[1] in self._worst_examples or (full and entry < self._worst[0]):
            return
        heapq.heappush(self._worst, entry)
        self._worst_examples[entry[1]] = example
        if full:
            _, dropped = heapq.heappop(self._worst)
            del self._worst_examples[dropped]


def _loss(record: LabelledExample, answer: Answer) -> float:
    """Distance of the probability from the label: of an outcome the mean's, of a solution the largest of its steps'."""
    if isinstance(record, OutcomeExample):
        return abs(answer.aggregates.mean - float(record.label))
    told = [(p, label) for p, label in zip(answer.right_probs, record.labels, strict=True) if label != NEUTRAL]
    return max((abs(p - float(label == RIGHT)) for p, label in told), default=0.0)


def _as_arrays(columns: dict[str, array[Any]]) -> dict[str, Any]:
    return {
        name: np.frombuffer(values, dtype=values.typecode).astype(np.float64 if values.typecode == "d" else np.int64)
        for name, values in columns.items()
    }
