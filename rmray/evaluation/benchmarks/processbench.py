"""ProcessBench: which step of a solution is the first wrong one, or is none?

Zheng et al. 2024, "ProcessBench: Identifying Process Errors in Mathematical Reasoning" (arXiv 2412.06559). A process
reward model names the first step that is most likely wrong; where it gives each step the probability that it is right
and no more, the first step below 0.5 is the predicted error. On solutions with an error accuracy is the share whose
first wrong step is named exactly, on right ones the share in which no step is; a subset's score is their harmonic mean
(F1), and the headline is the mean over the four subsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from rmray.errors import RowError
from rmray.evaluation.benchmarks.composite import NOTHING, Floats, Means, Observations, coverage_notes
from rmray.evaluation.benchmarks.item import Facts, Item, Scored
from rmray.evaluation.benchmarks.record import Figures
from rmray.evaluation.benchmarks.rows import Row, items_of, known_name, prompt_of, refuse_label, whole_number
from rmray.schema import Steps

COLUMNS = ("problem", "steps", "label")

SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
OTHER = "other"
THRESHOLD = 0.5


def read_processbench(row: Row, path: str) -> Item:
    """Columns `problem, steps[], label` [`id`]: the index of the first wrong step, -1 for none. The subset is how the
    `id` begins, or what the file is called. Raises RowError: missing_field, bad_label, wrong_count, bad_type,
    blank_completion."""
    steps = items_of(row, "steps")
    if not steps:
        raise RowError("wrong_count", "the solution has no step")
    label = whole_number(row, "label")
    if not -1 <= label < len(steps):
        raise refuse_label("label", label, f"-1 or the index of one of {len(steps)} steps")
    names = {name: name for name in SUBSETS}
    subset = known_name(str(row.get("id") or ""), names) or known_name(path, names)
    return Item(
        prompt=prompt_of(row, "problem"),
        completions=(Steps(tuple(steps)),),
        facts=Facts(part=subset or OTHER, first_error=label, name=str(row.get("id") or "")),
        steps=len(steps),
    )


def processbench_figures(scored: Sequence[Scored], *, seed: int = 0) -> Figures:
    seen = Observations(seed=seed)
    for row in scored:
        kind = "correct" if row.facts.first_error == -1 else "error"
        found = first_below(row.scores) if row.called_error is None else row.called_error
        seen.add(_cell(row.facts.part, kind), row.prompt, float(found == row.facts.first_error))
    present = [s for s in (*SUBSETS, OTHER) if any(_cell(s, kind) in seen for kind in ("error", "correct"))]
    whole = [subset for subset in present if all(_cell(subset, kind) in seen for kind in ("error", "correct"))]
    headline = seen.figure(partial(_mean_f1, whole)) if whole else NOTHING
    sections, notes = [], []
    for subset in present:
        items = seen.count(_cell(subset, "error")) + seen.count(_cell(subset, "correct"))
        estimate = seen.figure(partial(_f1, subset)) if subset in whole else NOTHING
        sections.append(estimate.section(subset, items))
        if subset not in whole:
            notes.append(f"{subset} lacks solutions with an error, or without one, and therefore has no F1.")
    for subset in present:
        for kind in ("error", "correct"):
            cell = _cell(subset, kind)
            if cell in seen:
                sections.append(seen.mean([cell]).section(f"{subset}: accuracy, {kind}", seen.count(cell)))
    return Figures(
        score=headline.score,
        score_low=headline.low,
        score_high=headline.high,
        sections=tuple(sections),
        notes=(*notes, *coverage_notes(whole, SUBSETS)),
    )


def first_below(probabilities: Sequence[float], threshold: float = THRESHOLD) -> int:
    """Index of the first step whose probability of being right is below the threshold, -1 for none."""
    return next((k for k, probability in enumerate(probabilities) if probability < threshold), -1)


def _cell(subset: str, kind: str) -> str:
    return f"{subset}/{kind}"


def _f1(subset: str, means: Means) -> Floats:
    """The harmonic mean; 0 where both are 0."""
    error, correct = means[_cell(subset, "error")], means[_cell(subset, "correct")]
    total = error + correct
    return np.divide(2 * error * correct, total, out=np.zeros_like(total), where=total > 0)


def _mean_f1(subsets: Sequence[str], means: Means) -> Floats:
    return np.asarray(np.mean([_f1(subset, means) for subset in subsets], axis=0))
