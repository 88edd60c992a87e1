"""Search with a process model: a beam over steps, of which a policy proposes several at a time. Pure.

After every step the candidates of all partial solutions are scored together, as completions of one prompt, and the best
few go on (step-level beam search; Snell et al. 2024). Called by `rmray benchmark search`; a policy of your own is a
function of the steps so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rmray.errors import RequestError
from rmray.schema import Content, ItemResult, ScoreFailure, ScoreRequest, Steps

Propose = Callable[[tuple[str, ...]], Sequence["NextStep"]]
"""The steps that may follow those so far."""
Score = Callable[[ScoreRequest], Sequence[ItemResult]]
"""The results of a request's completions, in order: `RewardClient.score` or a scorer."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """text: of the step. is_last: it ends the solution."""

    text: str
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A solution: its steps, the model's raw score of it, and how many candidates were scored to find it."""

    steps: tuple[str, ...]
    score: float
    num_scored: int


@dataclass(frozen=True, slots=True)
class _Partial:
    steps: tuple[str, ...]
    is_last: bool
    score: float


def search_steps(
    prompt: Content, propose: Propose, score: Score, *, width: int, max_steps: int, rng: np.random.Generator
) -> Found:
    """The best solution that a beam of `width` partial solutions finds in at most `max_steps` steps.

    Solutions that have ended stay in the beam for as long as they are among the best. rng: decides between equal
    scores, never their place. A candidate that cannot be scored is dropped. Raises RequestError where none of a step's
    can be, and `no_solution` where no solution has ended after `max_steps`.
    """
    if width < 1 or max_steps < 1:
        raise ValueError(f"width {width} and max_steps {max_steps} must be at least 1")
    beam = [_Partial((), False, float("-inf"))]
    num_scored = 0
    for _ in range(max_steps):
        drawn = [(partial.steps, step) for partial in beam if not partial.is_last for step in propose(partial.steps)]
        candidates = list(dict.fromkeys(((*steps, step.text), step.is_last) for steps, step in drawn))
        if not candidates:
            break
        scored = _score(prompt, candidates, score)
        num_scored += len(candidates)
        kept = [*(partial for partial in beam if partial.is_last), *scored]
        order = np.lexsort((rng.random(len(kept)), np.array([-partial.score for partial in kept])))
        beam = [kept[i] for i in order[:width]]
    ended = [partial for partial in beam if partial.is_last]
    if not ended:
        raise RequestError(
            "no_solution", f"no solution has ended after {max_steps} steps", next_step="allow more steps"
        )
    return Found(ended[0].steps, ended[0].score, num_scored)


def _score(prompt: Content, candidates: Sequence[tuple[tuple[str, ...], bool]], score: Score) -> list[_Partial]:
    request = ScoreRequest(
        prompt=prompt,
        completions=tuple(Steps(steps) for steps, _ in candidates),
        finished=tuple(is_last for _, is_last in candidates),
    )
    scored: list[_Partial] = []
    failures: list[ScoreFailure] = []
    for (steps, is_last), result in zip(candidates, score(request), strict=True):
        if isinstance(result, ScoreFailure):
            failures.append(result)
        else:
            scored.append(_Partial(steps, is_last, result.raw))
    if not scored:
        raise RequestError(failures[0].code, failures[0].message, why="no candidate could be scored")
    return scored
