"""Training losses in pure torch: scores and targets in, sums and a weight out. Chosen by name by the training step.

They know nothing of batches, padding, ranks or configs. One literal table names them all, so that it is the same in
every process. What those over compared scores take beside them, `data.pairs` and `data.rankings` make of the rows'
ranks; `outcome` and `process` take a label for each place that is read.
"""

from __future__ import annotations

from collections.abc import Callable

from rmray.objectives.all_pairs import all_pairs
from rmray.objectives.outcome import outcome
from rmray.objectives.pairwise import bradley_terry
from rmray.objectives.plackett_luce import plackett_luce
from rmray.objectives.process import process
from rmray.objectives.terms import LossTerms, sum_terms

OBJECTIVES: dict[str, Callable[..., LossTerms]] = {
    "bradley_terry": bradley_terry,
    "all_pairs": all_pairs,
    "plackett_luce": plackett_luce,
    "outcome": outcome,
    "process": process,
}

__all__ = [
    "OBJECTIVES",
    "LossTerms",
    "all_pairs",
    "bradley_terry",
    "outcome",
    "plackett_luce",
    "process",
    "sum_terms",
]
