"""Outcome and process models on records of their own: completions and steps that are labelled, not compared.

    answer  what a result says of a record     log      the numbers of all records, and the worst of them
    run     records -> log                     figures  log -> an evaluation, in parts that both kinds share
    words   the bag-of-words baseline          outcome, process  log -> the figures of each kind
    files   files -> log -> evaluation         table    the same in a terminal

The page is in `report.sections.labelled`, the pure figures in `metrics.outcome` and `metrics.process`.
"""

from rmray.evaluation.labelled.record import LABELLED, LabelledEvaluation, LabelledSet

__all__ = ["LABELLED", "LabelledEvaluation", "LabelledSet"]
