"""Sums worked out in steps, with a label for each step. Used by `write` for the process file.

A step that rests on a wrong one is wrong too: labels are +1 up to the first error and -1 from there on. An opening
that claims nothing is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Sum:
    """What is to be worked out. start, changes: two to four of them; no count leaves 1..11."""

    person: str
    fruit: str
    start: int
    changes: tuple[int, ...]

    @property
    def prompt(self) -> str:
        told = [f"gets {NUMBERS[c]}" if c > 0 else f"eats {NUMBERS[-c]}" for c in self.changes]
        return (
            f"{self.person} has {NUMBERS[self.start]} {self.fruit}, {', '.join(told[:-1])} and then {told[-1]}. "
            f"How many {self.fruit} is that? Work it out in steps."
        )

    @property
    def num_claims(self) -> int:
        """What may be wrong: the start, the count after each change, and the conclusion."""
        return len(self.changes) + 2

    def write(self, claim: int, before: int, count: int) -> str:
        """The step that claims `count`, going on from what the step before it claims."""
        if claim == 0:
            return f"{self.person} starts with {NUMBERS[count]} {self.fruit}."
        if claim == self.num_claims - 1:
            return f"So that is {NUMBERS[count]} {self.fruit}."
        change = self.changes[claim - 1]
        worked = f"{NUMBERS[before]} {'plus' if change > 0 else 'less'} {NUMBERS[abs(change)]}"
        return f"{worked.capitalize()} makes {NUMBERS[count]}."


def draw_sum(rng: np.random.Generator) -> Sum:
    """A sum of someone's fruit."""
    person, fruit = str(rng.choice(PEOPLE)), str(rng.choice(FRUITS))
    return Sum(person, fruit, *_draw_changes(rng))


def draw_solution(rng: np.random.Generator) -> Solution:
    """A sum of two to four changes worked out, with an error at some step or none."""
    problem = draw_sum(rng)
    wrong_at = None if rng.random() < SHARE_RIGHT else int(rng.integers(problem.num_claims))
    steps, count = [], 0
    for claim, change in enumerate((problem.start, *problem.changes, 0)):
        before, count = count, count + change
        if claim == wrong_at:
            count = _near(count, problem.changes[claim:], rng)
        steps.append(problem.write(claim, before, count))
    labels = [1 if wrong_at is None or i < wrong_at else -1 for i in range(len(steps))]
    if rng.random() < 0.5:
        steps, labels = [str(rng.choice(OPENINGS)), *steps], [0, *labels]
    return Solution(problem.prompt, tuple(steps), tuple(labels))


def _draw_changes(rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
    """A start and two to four changes that never leave 1..11, so that an error by one still has a word."""
    count = start = int(rng.integers(2, 8))
    changes = []
    for _ in range(int(rng.integers(2, 5))):
        change = int(rng.choice([c for c in (-3, -2, -1, 1, 2, 3, 4) if 1 <= count + c <= 11]))
        changes.append(change)
        count += change
    return start, tuple(changes)


def _near(count: int, changes: Sequence[int], rng: np.random.Generator) -> int:
    """A wrong count near the right one from which the remaining changes stay within the words for numbers."""
    later = np.cumsum([0, *changes])
    low, high = -int(later.min()), len(NUMBERS) - 1 - int(later.max())
    return int(rng.choice([n for n in range(count - 2, count + 3) if low <= n <= high and n != count]))
