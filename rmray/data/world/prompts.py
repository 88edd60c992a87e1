"""Word a question as a prompt, and read the question back from the prompt. Used by `duels`, `quality` and `write`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rmray.data.world.facts import ATTRIBUTES, FRUITS, NUMBERS, ORDERS, PEOPLE, STOPS
from rmray.data.world.questions import (
    ABOUT,
    IN_FULL,
    LEFT_OPEN,
    NOT_ABOUT,
    BothQuestion,
    CompareQuestion,
    FactQuestion,
    Question,
    RouteQuestion,
    SumQuestion,
)
from rmray.errors import DataError

GREETINGS = (
    "",
    "Please help me.",
    "A visitor asks:",
    "Quick question.",
    "I am new in town.",
    "For the town guide:",
    "My friend wants to know:",
    "Good morning.",
)
CLOSINGS = ("", "", "", "Be exact.", "Thank you.", "I am in a hurry.")

Prompt = str | Sequence[Mapping[str, Any]]
"""A prompt's text, or the chat messages whose last one holds it."""


def word_prompt(question: Question, rng: np.random.Generator) -> str:
    """One of the prompts that ask this question."""
    wordings = question.wordings()
    parts = (
        GREETINGS[rng.integers(len(GREETINGS))],
        wordings[rng.integers(len(wordings))],
        CLOSINGS[rng.integers(len(CLOSINGS))],
    )
    return " ".join(p for p in parts if p)


def read_prompt(prompt: Prompt) -> Question:
    """The question that `word_prompt` worded. Raises DataError where the prompt asks nothing about the town."""
    text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
    core = text
    for greeting in filter(None, GREETINGS):
        core = core.removeprefix(greeting + " ")
    for closing in filter(None, CLOSINGS):
        core = core.removesuffix(" " + closing)
    for pattern, build in _READERS:
        if match := pattern.fullmatch(core):
            return build({k: v for k, v in match.groupdict().items() if v is not None})
    raise DataError("the prompt is no question about the town", why=f"prompt: {text!r:.120}")


def _one_of(name: str, words: Sequence[str]) -> str:
    return f"(?P<{name}>{'|'.join(map(re.escape, words))})"


_FIELDS = {
    "person": _one_of("person", PEOPLE),
    "fruit": _one_of("fruit", FRUITS),
    "fruit_again": "(?P=fruit)",
    "attribute": _one_of("attribute", tuple(ATTRIBUTES)),
    "second": _one_of("second", tuple(ATTRIBUTES)),
    "word": _one_of("word", [word for words in ORDERS.values() for word in words]),
    "a": _one_of("a", PEOPLE),
    "b": _one_of("b", PEOPLE),
    "start": _one_of("start", STOPS),
    "end": _one_of("end", STOPS),
    "first": _one_of("first", NUMBERS),
    "more": _one_of("more", NUMBERS),
}


def _pattern(template: str) -> str:
    """A regular expression for a wording: its fields in braces match the words they may hold."""
    return re.sub(r"\\{(\w+)\\}", lambda m: _FIELDS[m[1]], re.escape(template))


def _fact_pattern(core: str) -> str:
    def remark(templates: Sequence[str], where: str) -> str:
        topic = f"the {_one_of(where + '_attribute', tuple(ATTRIBUTES))} of {_one_of(where + '_person', PEOPLE)}"
        halves = [t.split("{topic}") for t in templates]
        heads, tails = ("|".join(sorted({re.escape(h[i]) for h in halves}, reverse=True)) for i in (0, 1))
        return f"(?:{heads}){topic}(?:{tails})"

    ending = _one_of("ending", (IN_FULL, LEFT_OPEN))
    return f"(?:{remark(ABOUT, 'before')} )?{core}(?: {remark(NOT_ABOUT, 'after')})?(?: {ending})?"


def _build_fact(attribute: str) -> Callable[[dict[str, str]], Question]:
    def build(found: dict[str, str]) -> Question:
        remark = next(
            ((found[f"{w}_person"], found[f"{w}_attribute"]) for w in ("before", "after") if f"{w}_person" in found),
            None,
        )
        return FactQuestion(found["person"], attribute, remark, found.get("ending", ""))

    return build


def _readers() -> list[tuple[re.Pattern[str], Callable[[dict[str, str]], Question]]]:
    """Every wording as a pattern, made from the wordings that the questions themselves give."""
    found: list[tuple[str, Callable[[dict[str, str]], Question]]] = []
    for name in ATTRIBUTES:
        for wording in FactQuestion("{person}", name).wordings():
            found.append((_fact_pattern(_pattern(wording)), _build_fact(name)))
    for wording in BothQuestion("{person}", ("{attribute}", "{second}")).wordings():
        found.append((_pattern(wording), lambda f: BothQuestion(f["person"], (f["attribute"], f["second"]))))
    for wording in CompareQuestion("{word}", ("{a}", "{b}")).wordings():
        found.append((_pattern(wording), lambda f: CompareQuestion(f["word"], (f["a"], f["b"]))))
    for wording in RouteQuestion("{start}", "{end}").wordings():
        found.append((_pattern(wording), lambda f: RouteQuestion(f["start"], f["end"])))
    for wording in SumQuestion("{person}", "{fruit}", 1, 2).wordings():
        worded = wording.replace(NUMBERS[1], "{first}").replace(NUMBERS[2], "{more}")
        head, tail = worded.rsplit("{fruit}", 1)
        found.append(
            (
                _pattern(head + "{fruit_again}" + tail),
                lambda f: SumQuestion(f["person"], f["fruit"], NUMBERS.index(f["first"]), NUMBERS.index(f["more"])),
            )
        )
    return [(re.compile(pattern), build) for pattern, build in found]


_READERS = _readers()
