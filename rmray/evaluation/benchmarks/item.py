"""One row of a benchmark: what to score, what is known of it, and what it got. Pure.

Readers make Items, the runner has them scored, and each benchmark's figures are made of the Scored.
"""

from __future__ import annotations

from dataclasses import dataclass

from rmray.evaluation.benchmarks.verdicts import Verdict
from rmray.schema import Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a benchmark knows of a row, without its texts.

    part: the subset or domain it belongs to. groups: further sections that it counts in. right: of each completion,
    whether it is a right (chosen) one. name: the row's own id. pairs: (right one, wrong one), where the metric compares
    certain pairs. first_error: index of the first wrong step, -1 for none.
    """

    part: str
    groups: tuple[str, ...] = ()
    right: tuple[bool, ...] = ()
    name: str = ""
    pairs: tuple[tuple[int, int], ...] = ()
    first_error: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One prompt with its completions, scored in one request. steps: how many the only completion consists of."""

    prompt: Content
    completions: tuple[Content, ...]
    facts: Facts
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A row with its answers; texts are not kept. prompt: names the prompt.

    scores: one a completion, or one a step, all finite. called_error: index of the step that the model calls the first
    wrong one, -1 for none; None where it does not say. verdicts: a judge's, in both orders, both told of completions
    0 and 1 as `first` and `second`; None where there are scores.
    """

    facts: Facts
    prompt: int
    scores: tuple[float, ...] = ()
    called_error: int | None = None
    verdicts: tuple[Verdict, Verdict] | None = None
