"""Training losses in pure torch: scores and targets in, sums and a weight out. Chosen by name by the training step.

They know nothing of batches, padding, prompts, ranks or configs. One literal table names them all, so that it is the
same in every process.
"""

from __future__ import annotations

from rmray.objectives.pairwise import bradley_terry
from rmray.objectives.terms import LossTerms, sum_terms

OBJECTIVES = {"bradley_terry": bradley_terry}

__all__ = ["OBJECTIVES", "LossTerms", "bradley_terry", "sum_terms"]
