"""Where the steps of a completion end, in its text and in its tokens. Called by `Renderer`. Pure.

Each step ends with the separator, the last one too. In a text every separator ends a step, unless nothing but white
space precedes it; steps that are given one by one may hold separators themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rmray.errors import RowError
from rmray.schema import Steps


@dataclass(frozen=True, slots=True)
class StepText:
    """A completion as it is written, and the characters after which its steps end, ascending."""

    text: str
    ends: tuple[int, ...]

    def moved(self, by: int, *, length: int | None = None) -> tuple[int, ...]:
        """The ends in a text where this one begins at `by`. length: what is left of it there, from its beginning."""
        return tuple(by + (end if length is None else min(end, length)) for end in self.ends)


def write_steps(steps: Steps, separator: str) -> StepText:
    """The steps one after the other, each with its separator once. Raises RowError as `Steps.check` does, for a step
    that is nothing but its separator too."""
    bare = Steps(tuple(step.removesuffix(separator) for step in steps.texts))
    bare.check()
    text, ends = "", []
    for step in bare.texts:
        text += step + separator
        ends.append(len(text))
    return StepText(text, tuple(ends))


def find_steps(text: str, separator: str, *, finished: bool) -> StepText:
    """The text with the last separator where it lacks it and is finished; a last step that was cut off is none.

    Raises RowError `no_step` where no step is whole.
    """
    start, ends = 0, []
    while (found := text.find(separator, start)) >= 0:
        end = found + len(separator)
        if text[start:found].strip():
            ends.append(end)
        start = end
    if finished and text[start:].strip():
        text += separator
        ends.append(len(text))
    if not ends:
        raise RowError("no_step", "the completion was cut off within its first step", why=f"no {separator!r} in it")
    return StepText(text, tuple(ends))


def steps_in_chat(text: str, steps: StepText, boundary: int) -> tuple[int, ...]:
    """Where steps end in a chat's text, which holds them behind `boundary`, their outer white space perhaps cut off."""
    start = text.find(steps.text, boundary)
    if start >= 0:
        return steps.moved(start)
    blanks = len(steps.text) - len(steps.text.lstrip())
    start = text.find(steps.text.strip(), boundary)
    if start < 0:
        raise RowError("steps_not_found", "the chat template writes the answer's text otherwise than it is given")
    return steps.moved(start - blanks, length=len(steps.text.rstrip()))


def with_last_separator(text: str, steps: StepText) -> str:
    """A chat's text that ends with an unfinished answer, its last separator put back where the template cut it off: the
    answer goes on, and there its steps end as they do within it."""
    bare = steps.text.rstrip()
    return text + steps.text[len(bare) :] if not text.endswith(steps.text) and text.endswith(bare) else text


def step_tokens(ends: Sequence[int], offsets: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The token that holds the last character before each end. Raises RowError where two steps end in one."""
    places: list[int] = []
    place = 0
    for end in ends:
        while place < len(offsets) - 1 and offsets[place][1] < end:
            place += 1
        places.append(place)
    if len(set(places)) < len(places):
        raise RowError("empty_step", "two steps end in the same token", why="a step of its own needs a token at least")
    return tuple(places)
