"""Turn a row's labels into what the scores of its tokens or steps should be.

Called by the training step. Legend: S scores in the order row after row, token after token, as `build_batch` reads them
with the pooling `tokens` or `steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmray.data.batch import num_read
from rmray.data.order import Int64
from rmray.data.prepared import Row


@dataclass(frozen=True, slots=True)
class TokenTargets:
    """label_S: float64, 1 for each token of a right completion and 0 for each of a wrong one."""

    label_S: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepTargets:
    """class_S: int64, of each step 0 for wrong, 1 for neutral, 2 for right."""

    class_S: Int64


def num_labelled_tokens(row: Row) -> int:
    """Tokens of the row's completion, its end of sequence among them."""
    [count] = num_read(row.group, "tokens")
    return count


def build_tokens(rows: Sequence[Row]) -> TokenTargets:
    """The label of each completion, copied to each of its tokens."""
    labels = np.array([row.labels[0] for row in rows], dtype=np.float64)
    return TokenTargets(np.repeat(labels, [num_labelled_tokens(row) for row in rows]))


def build_steps(rows: Sequence[Row]) -> StepTargets:
    """The class of each step."""
    return StepTargets(np.array([label + 1 for row in rows for label in row.labels], dtype=np.int64))
