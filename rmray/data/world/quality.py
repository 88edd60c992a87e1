"""What a completion is worth, and completions as a policy would sample them. Used by rollouts and `write`."""

from __future__ import annotations

import numpy as np

from rmray.data.world.facts import World
from rmray.data.world.prompts import Prompt, read_prompt
from rmray.data.world.questions import RATINGS, Question

RIGHT = "right"
SHARE_RIGHT = 0.35
"""Share of right completions among those of `sample_completions`."""


def verdict(world: World, prompt: Prompt, completion: str) -> str:
    """`right`, or the flaw's name; `off_topic` for whatever does not answer the question at all.

    Raises DataError where the prompt asks nothing about the town.
    """
    question = read_prompt(prompt)
    if completion == question.answer(world):
        return RIGHT
    flaws = question.flawed(world).items()
    return next((flaw for flaw, completions in flaws if completion in completions), "off_topic")


def true_quality(world: World, prompt: Prompt, completion: str) -> float:
    """The rating that a judge who knows the town gives, from 1 (off topic) to 5 (right). Raises as `verdict`."""
    return RATINGS[verdict(world, prompt, completion)]


def sample_completions(world: World, prompt: Prompt, n: int, seed: int) -> list[str]:
    """n completions of one prompt, as a middling policy would give them: right ones, flawed ones, repetitions.

    The same prompt and seed give the same ones. Raises as `verdict`.
    """
    text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
    rng = np.random.default_rng([seed, *text.encode()])
    question = read_prompt(text)
    return [
        question.answer(world) if rng.random() < SHARE_RIGHT else draw_flawed(world, question, rng)[1] for _ in range(n)
    ]


def draw_flawed(world: World, question: Question, rng: np.random.Generator) -> tuple[str, str]:
    """(flaw, completion): each of the question's flaws is equally likely."""
    flaws = [(flaw, completions) for flaw, completions in question.flawed(world).items() if completions]
    flaw, completions = flaws[rng.integers(len(flaws))]
    return flaw, completions[rng.integers(len(completions))]
