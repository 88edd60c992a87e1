"""Draw duels: a right completion against a flawed one, in twos that mirror each other. Used by `write`.

Whatever speaks for a completion in one duel speaks against it in its twin: the same two completions are asked for by
another prompt with the verdict turned round, or, where no prompt can turn it, the same words change sides. So words,
lengths and endings tell nothing without the prompt and the facts, and only their relation is left to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rmray.data.world.facts import ATTRIBUTES, FRUITS, ORDERS, PEOPLE, World
from rmray.data.world.prompts import word_prompt
from rmray.data.world.questions import (
    IN_FULL,
    LEFT_OPEN,
    BothQuestion,
    CompareQuestion,
    FactQuestion,
    Question,
    RouteQuestion,
    SumQuestion,
    sentence,
)

T = TypeVar("T")
MAX_ADDEND = 4


@dataclass(frozen=True, slots=True)
class Duel:
    """chosen answers the prompt, rejected has the flaw."""

    prompt: str
    chosen: str
    rejected: str
    flaw: str


Twins = tuple[Duel, Duel]


def draw_twins(world: World, rng: np.random.Generator) -> Twins:
    """Two duels that mirror each other, of a kind drawn by the weights of `KINDS`."""
    weights = np.array([weight for _, weight in KINDS.values()])
    kind = list(KINDS)[rng.choice(len(KINDS), p=weights / weights.sum())]
    return KINDS[kind][0](world, rng)


def _wrong_fact(world: World, rng: np.random.Generator) -> Twins:
    """Two people who differ; each is said to be what the other one is."""
    attribute = _pick(tuple(ATTRIBUTES), rng)
    values = world.values[attribute]
    one = _pick(PEOPLE, rng)
    other = _pick([p for p in PEOPLE if values[p] != values[one]], rng)

    def duel(person: str, wrong_like: str) -> Duel:
        flawed = sentence(person, attribute, values[wrong_like])
        return _duel(world, FactQuestion(person, attribute), flawed, "wrong_fact", rng)

    return duel(one, other), duel(other, one)


def _off_topic(world: World, rng: np.random.Generator) -> Twins:
    """Two true facts, both mentioned by both prompts; each prompt asks for one of them."""
    people, attributes = _pick_two(PEOPLE, rng), _pick_two(tuple(ATTRIBUTES), rng)
    one, other = zip(people, attributes, strict=True)
    return _turned(
        world, FactQuestion(*one, remark=other), FactQuestion(*other, remark=one), ("off_topic", "off_topic"), rng
    )


def _reversed(world: World, rng: np.random.Generator) -> Twins:
    """The same two people compared by the word for more and by the word for less."""
    people, words = _pick_two(PEOPLE, rng), _pick(tuple(ORDERS.values()), rng)

    def duel(word: str) -> Duel:
        question = CompareQuestion(word, _pick((people, people[::-1]), rng))
        return _duel(world, question, question.flawed(world)["reversed"][0], "reversed", rng)

    return duel(words[0]), duel(words[1])


def _route_length(world: World, rng: np.random.Generator) -> Twins:
    """A shorter and a longer way from one stop: the one is cut off, the other goes on too far."""
    line = _pick((world.route, world.route[::-1]), rng)
    more, num_stops = int(rng.integers(1, 3)), int(rng.integers(3, 5))
    start = int(rng.integers(len(line) - num_stops - more + 1))
    short = RouteQuestion(line[start], line[start + num_stops - 1])
    long = RouteQuestion(line[start], line[start + num_stops - 1 + more])
    return _turned(world, long, short, ("cut_off", "overrun"), rng)


def _wrong_order(world: World, rng: np.random.Generator) -> Twins:
    """Two ways on which two stops have changed places: the same words."""

    def duel() -> Duel:
        line = _pick((world.route, world.route[::-1]), rng)
        num_stops = int(rng.integers(4, 6))
        start = int(rng.integers(len(line) - num_stops + 1))
        question = RouteQuestion(line[start], line[start + num_stops - 1])
        return _duel(world, question, _pick(question.flawed(world)["wrong_order"], rng), "wrong_order", rng)

    return duel(), duel()


def _one_or_both(world: World, rng: np.random.Generator) -> Twins:
    """Asked for two facts against asked for the first one alone."""
    person, (first, second) = _pick(PEOPLE, rng), _pick_two(tuple(ATTRIBUTES), rng)
    both, one = BothQuestion(person, (first, second)), FactQuestion(person, first)
    return _turned(world, both, one, ("cut_off", "overrun"), rng)


def _full_or_open(world: World, rng: np.random.Generator) -> Twins:
    """Asked for the whole sentence against asked to leave its end open."""
    fact = _pick(PEOPLE, rng), _pick(tuple(ATTRIBUTES), rng)
    full, left_open = FactQuestion(*fact, ending=IN_FULL), FactQuestion(*fact, ending=LEFT_OPEN)
    return _turned(world, full, left_open, ("cut_off", "overrun"), rng)


def _wrong_sum(world: World, rng: np.random.Generator) -> Twins:
    """Two sums of the same person's fruits; the answer to the one is wrong for the other."""
    person, fruit = _pick(PEOPLE, rng), _pick(FRUITS, rng)
    addends = range(1, MAX_ADDEND + 1)
    sums = [(a, b) for a in addends for b in addends]
    one = _pick(sums, rng)
    other = _pick([s for s in sums if 0 < abs(sum(s) - sum(one)) <= 3], rng)
    questions = SumQuestion(person, fruit, *one), SumQuestion(person, fruit, *other)
    return _turned(world, *questions, ("wrong_sum", "wrong_sum"), rng)


KINDS: dict[str, tuple[Callable[[World, np.random.Generator], Twins], float]] = {
    "wrong_fact": (_wrong_fact, 0.2),
    "off_topic": (_off_topic, 0.15),
    "reversed": (_reversed, 0.15),
    "route_length": (_route_length, 0.15),
    "wrong_order": (_wrong_order, 0.1),
    "one_or_both": (_one_or_both, 0.08),
    "full_or_open": (_full_or_open, 0.07),
    "wrong_sum": (_wrong_sum, 0.1),
}
"""What twins are made of, and the share of each kind."""


def _turned(world: World, one: Question, other: Question, flaws: tuple[str, str], rng: np.random.Generator) -> Twins:
    """The answer of each question is the flawed completion of the other. flaws: in the first duel, in the second."""
    first = _duel(world, one, other.answer(world), flaws[0], rng)
    return first, _duel(world, other, one.answer(world), flaws[1], rng)


def _duel(world: World, question: Question, rejected: str, flaw: str, rng: np.random.Generator) -> Duel:
    return Duel(word_prompt(question, rng), question.answer(world), rejected, flaw)


def _pick(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _pick_two(items: Sequence[T], rng: np.random.Generator) -> tuple[T, T]:
    first, second = rng.choice(len(items), size=2, replace=False)
    return items[int(first)], items[int(second)]
