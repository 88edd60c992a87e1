"""An ensemble's members on the evaluated pairs: how right each is, and whether they disagree where it is wrong.

Called by `figures`. Columns in, JSON out; every number is finite, and what cannot be had is None.

Legend: C completions, P pairs, M members.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from rmray.evaluation.pair_log import Columns
from rmray.evaluation.sections import Section, parts_by, split_figures
from rmray.metrics.disagreement import error_auroc, gap_disagreement
from rmray.metrics.intervals import clustered_interval

NUM_PARTS = 4


def disagreement_figures(columns: Columns, *, seed: int) -> Section | None:
    """Of an ensemble: whether its members disagree where it is wrong, and how right each is alone. None of others.

    A pair's disagreement is the standard deviation over members of the gap of their rewards; an error is a pair that is
    not won.
    """
    num_members = columns.members_CM.shape[1]
    if not num_members:
        return None
    gaps_PM = columns.members_CM[columns.chosen_P] - columns.members_CM[columns.rejected_P]
    values_P = gap_disagreement(gaps_PM)
    found = error_auroc(values_P, columns.gap_P <= 0, columns.prompts_P, seed=seed)
    members: list[Section] = []
    for m in range(num_members):
        interval = clustered_interval(gaps_PM[:, m] > 0, columns.prompts_P, seed=seed, bounds=(0.0, 1.0))
        members.append(
            {
                "member": m,
                "accuracy": float(np.mean(gaps_PM[:, m] > 0)),
                "accuracy_low": interval.low,
                "accuracy_high": interval.high,
                "ties": int(np.count_nonzero(gaps_PM[:, m] == 0)),
            }
        )
    return {
        **asdict(found),
        "mean": float(values_P.mean()),
        "members": members,
        "ensemble": split_figures(columns, np.ones(len(values_P), dtype=np.bool_), seed=seed),
        "quartiles": parts_by(columns, values_P, num_parts=NUM_PARTS, seed=seed),
    }
