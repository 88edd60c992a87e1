"""A stand-in for a policy: it works out sums step by step, and errs now and then. Used by `rmray benchmark search`.

It goes on from what its last step claims, right or wrong, as a language model does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmray.data.world.facts import NUMBERS
from rmray.data.world.steps import Sum


def draw_steps(
    problem: Sum, steps: Sequence[str], rng: np.random.Generator, *, num: int, error_rate: float
) -> list[str]:
    """`num` next steps after `steps`, drawn one by one; each is off by one or two with the chance `error_rate`."""
    claim = len(steps)
    change = (problem.start, *problem.changes, 0)[claim]
    before = _claimed(steps[-1]) if steps else 0
    right = before + change
    nearest = min(max(right, 0), len(NUMBERS) - 1)  # errors may have led to where there is no word any more
    near = [n for n in range(nearest - 2, nearest + 3) if 0 <= n < len(NUMBERS) and n != right]
    drawn = []
    for _ in range(num):
        errs = rng.random() < error_rate or not 0 <= right < len(NUMBERS)
        drawn.append(problem.write(claim, before, int(rng.choice(near)) if errs else right))
    return drawn


def is_solved(problem: Sum, steps: Sequence[str]) -> bool:
    """Whether the conclusion is the right number, however it was come by."""
    return len(steps) == problem.num_claims and _claimed(steps[-1]) == problem.start + sum(problem.changes)


def _claimed(step: str) -> int:
    """The number that a step ends with."""
    words = [word.strip(".") for word in step.split()]
    return next(NUMBERS.index(word) for word in reversed(words) if word in NUMBERS)
