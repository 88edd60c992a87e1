"""Sums worked out in steps, with a label for each step. Used by `write` for the process file.

A step that rests on a wrong one is wrong too: labels are +1 up to the first error and -1 from there on. An opening
that claims nothing is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmray.data.world.facts import FRUITS, NUMBERS, PEOPLE

SHARE_RIGHT = 0.4
"""Share of solutions without an error."""
OPENINGS = ("Let us see.", "I will count along.", "Step by step, then.")


@dataclass(frozen=True, slots=True)
class Solution:
    """labels: -1, 0 or +1 for each step."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]


def draw_solution(rng: np.random.Generator) -> Solution:
    """A sum of two to four changes worked out, with an error at some step or none."""
    person, fruit = str(rng.choice(PEOPLE)), str(rng.choice(FRUITS))
    start, changes = _draw_sum(rng)
    told = [f"gets {NUMBERS[c]}" if c > 0 else f"eats {NUMBERS[-c]}" for c in changes]
    prompt = (
        f"{person} has {NUMBERS[start]} {fruit}, {', '.join(told[:-1])} and then {told[-1]}. "
        f"How many {fruit} is that? Work it out in steps."
    )
    # The claims that may be wrong: the start, the count after each change, and the conclusion.
    wrong_at = None if rng.random() < SHARE_RIGHT else int(rng.integers(len(changes) + 2))
    counts, count = [], 0
    for i, change in enumerate((start, *changes, 0)):
        count += change
        if i == wrong_at:
            count = _near(count, changes[i:], rng)
        counts.append(count)
    steps = [f"{person} starts with {NUMBERS[counts[0]]} {fruit}."]
    for change, after in zip(changes, counts[1:-1], strict=True):
        steps.append(f"{NUMBERS[abs(change)].capitalize()} {'more' if change > 0 else 'fewer'} makes {NUMBERS[after]}.")
    steps.append(f"So that is {NUMBERS[counts[-1]]} {fruit}.")
    labels = [1 if wrong_at is None or i < wrong_at else -1 for i in range(len(steps))]
    if rng.random() < 0.5:
        steps, labels = [str(rng.choice(OPENINGS)), *steps], [0, *labels]
    return Solution(prompt, tuple(steps), tuple(labels))


def _draw_sum(rng: np.random.Generator) -> tuple[int, list[int]]:
    """A start and two to four changes that never leave 1..11, so that an error by one still has a word."""
    count = start = int(rng.integers(2, 8))
    changes = []
    for _ in range(int(rng.integers(2, 5))):
        change = int(rng.choice([c for c in (-3, -2, -1, 1, 2, 3, 4) if 1 <= count + c <= 11]))
        changes.append(change)
        count += change
    return start, changes


def _near(count: int, changes: list[int], rng: np.random.Generator) -> int:
    """A wrong count near the right one from which the remaining changes stay within the words for numbers."""
    later = np.cumsum([0, *changes])
    low, high = -int(later.min()), len(NUMBERS) - 1 - int(later.max())
    return int(rng.choice([n for n in range(count - 2, count + 3) if low <= n <= high and n != count]))
