"""Questions about the town: how they are worded and read back, the right answer, and every flawed one.

Each kind of question knows its answer from the world alone. A flawed completion is filed under its flaw; `RATINGS` says
how bad a flaw is. Used by `duels` (pairs that no surface rule tells apart) and `quality` (what a completion is worth).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rmray.data.world.facts import ATTRIBUTES, FRUITS, NUMBERS, ORDERS, PEOPLE, World

RATINGS = {
    "right": 5.0,
    "overrun": 4.0,  # right, but goes on past what was asked
    "cut_off": 3.0,  # right as far as it goes, but ends too early
    "wrong_fact": 2.0,
    "wrong_sum": 2.0,
    "wrong_order": 2.0,
    "reversed": 2.0,  # says the opposite
    "off_topic": 1.0,  # true, perhaps, but an answer to something else
}
"""What a completion is worth by its verdict: `right` or the name of its flaw."""

Flawed = dict[str, tuple[str, ...]]
"""Flawed completions by flaw."""


class Question(Protocol):
    def wordings(self) -> tuple[str, ...]:
        """The ways to ask exactly this, without greeting."""
        ...

    def answer(self, world: World) -> str: ...

    def flawed(self, world: World) -> Flawed: ...


def sentence(person: str, attribute: str, value: str) -> str:
    return f"{stub(person, attribute)} {value}{ATTRIBUTES[attribute].tail}"


def stub(person: str, attribute: str) -> str:
    """The sentence cut off before its value."""
    return ATTRIBUTES[attribute].stub.format(person=person)


ABOUT = ("We spoke of {topic}.", "I know {topic} by now.")
NOT_ABOUT = ("I did not ask for {topic}.", "Leave out {topic}.")
IN_FULL, LEFT_OPEN = "Answer in a full sentence.", "Leave the last part to me."


@dataclass(frozen=True, slots=True)
class FactQuestion:
    """What is this person's job, pet, door or drink?

    remark: somebody else's attribute, which the prompt mentions but does not ask for. ending: IN_FULL, LEFT_OPEN (the
    answer must stop before the value, as a quiz would) or "".
    """

    person: str
    attribute: str
    remark: tuple[str, str] | None = None
    ending: str = ""

    def wordings(self) -> tuple[str, ...]:
        plain = [w.format(person=self.person) for w in ATTRIBUTES[self.attribute].wordings]
        plain.append(f"Tell me the {self.attribute} of {self.person}.")
        if self.remark:
            topic = "the {1} of {0}".format(*self.remark)
            before = [f"{a.format(topic=topic)} {w}" for a in ABOUT for w in plain]
            after = [f"{w} {a.format(topic=topic)}" for a in NOT_ABOUT for w in plain]
            plain = before + after
        return tuple(f"{w} {self.ending}".strip() for w in plain)

    def answer(self, world: World) -> str:
        if self.ending == LEFT_OPEN:
            return stub(self.person, self.attribute)
        return sentence(self.person, self.attribute, world.values[self.attribute][self.person])

    def flawed(self, world: World) -> Flawed:
        true = world.values[self.attribute][self.person]
        whole = sentence(self.person, self.attribute, true)
        more = tuple(f"{whole} {_fact(world, self.person, other)}" for other in ATTRIBUTES if other != self.attribute)
        wrong = tuple(sentence(self.person, self.attribute, v) for v in ATTRIBUTES[self.attribute].values if v != true)
        about = [self.remark] if self.remark else [(p, self.attribute) for p in PEOPLE if p != self.person]
        off_topic = tuple(_fact(world, person, attribute) for person, attribute in about)
        if self.ending == LEFT_OPEN:
            return {"overrun": (whole,), "wrong_fact": wrong, "off_topic": tuple(stub(p, a) for p, a in about)}
        cut_off = (stub(self.person, self.attribute),)
        return {"overrun": more, "cut_off": cut_off, "wrong_fact": wrong, "off_topic": off_topic}


@dataclass(frozen=True, slots=True)
class BothQuestion:
    """Two attributes of one person, in this order."""

    person: str
    attributes: tuple[str, str]

    def wordings(self) -> tuple[str, ...]:
        first, second = self.attributes
        return (
            f"Tell me the {first} and the {second} of {self.person}.",
            f"What are the {first} and the {second} of {self.person}?",
        )

    def answer(self, world: World) -> str:
        return " ".join(_fact(world, self.person, attribute) for attribute in self.attributes)

    def flawed(self, world: World) -> Flawed:
        first, second = self.attributes
        begun = _fact(world, self.person, first)
        true = world.values[second][self.person]
        wrong = tuple(f"{begun} {sentence(self.person, second, v)}" for v in ATTRIBUTES[second].values if v != true)
        other = PEOPLE[(PEOPLE.index(self.person) + 1) % len(PEOPLE)]
        off_topic = " ".join(_fact(world, other, attribute) for attribute in self.attributes)
        return {
            "cut_off": (begun, f"{begun} {stub(self.person, second)}"),
            "wrong_fact": wrong,
            "off_topic": (off_topic,),
        }


@dataclass(frozen=True, slots=True)
class CompareQuestion:
    """Which of two people is older, taller, ...? word: one of ORDERS. people: in the order the prompt names them."""

    word: str
    people: tuple[str, str]

    def wordings(self) -> tuple[str, ...]:
        first, second = self.people
        return (
            f"Who is {self.word}, {first} or {second}?",
            f"Which of the two is {self.word}: {first} or {second}?",
            f"Compare {first} with {second}: who is {self.word}?",
        )

    def answer(self, world: World) -> str:
        order, most = next((o, self.word == words[0]) for o, words in ORDERS.items() if self.word in words)
        # `ranking` runs from most to least, so the lesser of two comes later.
        first, second = sorted(self.people, key=world.ranking[order].index, reverse=not most)
        return f"{first} is {self.word} than {second}."

    def flawed(self, world: World) -> Flawed:
        first, *_, second = self.answer(world).rstrip(".").split()
        outsider = next(p for p in PEOPLE if p not in self.people)
        return {
            "reversed": (f"{second} is {self.word} than {first}.",),
            "off_topic": (f"{first} is {self.word} than {outsider}.",),
        }


@dataclass(frozen=True, slots=True)
class RouteQuestion:
    """Which stops lie between two stops of the bus line, both named too?"""

    start: str
    end: str

    def wordings(self) -> tuple[str, ...]:
        return (
            f"List the stops from {self.start} to {self.end}.",
            f"Which stops are there from {self.start} to {self.end}?",
            f"Name all stops from {self.start} to {self.end} in order.",
        )

    def answer(self, world: World) -> str:
        return ", ".join(self._stops(world))

    def flawed(self, world: World) -> Flawed:
        stops = self._stops(world)
        line = self._line(world)
        onward = line[line.index(self.end) + 1 :]
        swapped = [[*stops[:i], stops[i + 1], stops[i], *stops[i + 2 :]] for i in range(1, len(stops) - 2)]
        return {
            "overrun": tuple(", ".join([*stops, *onward[:n]]) for n in range(1, min(3, len(onward)) + 1)),
            "cut_off": tuple(", ".join(stops[:n]) for n in range(max(1, len(stops) - 3), len(stops))),
            "wrong_order": tuple(", ".join(s) for s in swapped),
        }

    def _line(self, world: World) -> tuple[str, ...]:
        forward = world.route.index(self.start) < world.route.index(self.end)
        return world.route if forward else world.route[::-1]

    def _stops(self, world: World) -> tuple[str, ...]:
        line = self._line(world)
        return line[line.index(self.start) : line.index(self.end) + 1]


@dataclass(frozen=True, slots=True)
class SumQuestion:
    """How many fruits after getting more? first, more: whole numbers whose sum has a word in NUMBERS."""

    person: str
    fruit: str
    first: int
    more: int

    def wordings(self) -> tuple[str, ...]:
        first, more = NUMBERS[self.first], NUMBERS[self.more]
        return (
            f"{self.person} has {first} {self.fruit} and gets {more} more. How many {self.fruit} is that?",
            f"{self.person} buys {first} {self.fruit} and then {more} more. How many {self.fruit} is that?",
        )

    def answer(self, world: World) -> str:
        return self.count(self.first + self.more)

    def flawed(self, world: World) -> Flawed:
        total = self.first + self.more
        wrong = tuple(self.count(n) for n in range(1, len(NUMBERS)) if n != total)
        return {"wrong_sum": wrong, "off_topic": tuple(self.count(total, f) for f in FRUITS if f != self.fruit)}

    def count(self, number: int, fruit: str | None = None) -> str:
        return f"{self.person} has {NUMBERS[number]} {fruit or self.fruit}."


def _fact(world: World, person: str, attribute: str) -> str:
    return sentence(person, attribute, world.values[attribute][person])
