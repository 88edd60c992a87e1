"""What rendering gives: paths of token ids, and groups of them. Used by everything that renders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rmray.data.group import TokenGroup, group_paths
from rmray.errors import RowError


@dataclass(frozen=True, slots=True)
class RenderedPath:
    """One prompt and completion as ids. ids[:prompt_len] are the prompt's.

    truncated: the prompt lost its oldest tokens. num_escaped: special tokens written out in the text, made harmless.
    step_ends: places of the tokens in which steps end, ascending; empty where the rules know no steps.
    """

    ids: list[int]
    prompt_len: int
    truncated: bool
    num_escaped: int = 0
    step_ends: tuple[int, ...] = ()


def group_of(paths: Sequence[RenderedPath | RowError]) -> TokenGroup:
    """The K paths with their common prefix stored once. Raises the first RowError among them."""
    good: list[RenderedPath] = []
    for path in paths:
        if isinstance(path, RowError):
            raise path
        good.append(path)
    return group_rendered(good)


def group_rendered(paths: Sequence[RenderedPath]) -> TokenGroup:
    """The same of paths that are all sound. Steps are kept where any path has some."""
    step_ends = [p.step_ends for p in paths]
    return group_paths([p.ids for p in paths], [p.prompt_len for p in paths], step_ends if any(step_ends) else ())
