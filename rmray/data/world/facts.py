"""The town that questions are asked about: who lives there and what is true of them. Used by `questions` and `write`.

Every value of an attribute belongs to equally many people, so that no value is likelier to be right than another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmray.errors import DataError

WORLD_FILE = "world.json"
WORLD_FORMAT = 1

PEOPLE = ("Ada", "Ben", "Cora", "Dan", "Eve", "Finn", "Gus", "Hana")
STOPS = ("mill", "bridge", "church", "market", "school", "harbour", "station", "park")
FRUITS = ("apples", "pears", "plums", "figs")
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """values: what it can be. stub + value + tail is the sentence that states it. wordings: questions for it."""

    values: tuple[str, ...]
    stub: str
    tail: str
    wordings: tuple[str, ...]


ATTRIBUTES = {
    "job": Attribute(
        ("baker", "pilot", "nurse", "painter"),
        "{person} is a",
        ".",
        ("What is the job of {person}?", "Which job does {person} have?", "What does {person} do for a living?"),
    ),
    "pet": Attribute(
        ("cat", "dog", "parrot", "rabbit"),
        "{person} has a",
        ".",
        ("What is the pet of {person}?", "Which pet does {person} have?", "Which pet lives with {person}?"),
    ),
    "door": Attribute(
        ("red", "blue", "green", "white"),
        "{person} has a",
        " door.",
        ("Which colour is the door of {person}?", "What colour of door does {person} have?"),
    ),
    "drink": Attribute(
        ("tea", "coffee", "milk", "juice"),
        "{person} drinks",
        ".",
        ("What is the drink of {person}?", "What does {person} drink?", "Which drink does {person} like?"),
    ),
}

ORDERS = {"age": ("older", "younger"), "height": ("taller", "shorter")}
"""What people can be compared by: the word for more of it and the word for less."""


@dataclass(frozen=True)
class World:
    """values: by attribute and person. ranking: by order, people from most to least. route: the bus line's stops."""

    seed: int
    values: dict[str, dict[str, str]]
    ranking: dict[str, tuple[str, ...]]
    route: tuple[str, ...]

    @classmethod
    def from_seed(cls, seed: int) -> World:
        """The same seed gives the same town."""
        rng = np.random.default_rng([seed, 0])
        values = {}
        for name, attribute in ATTRIBUTES.items():
            dealt = rng.permutation(np.resize(attribute.values, len(PEOPLE)))
            values[name] = dict(zip(PEOPLE, (str(v) for v in dealt), strict=True))
        ranking = {name: tuple(str(p) for p in rng.permutation(PEOPLE)) for name in ORDERS}
        return cls(seed, values, ranking, tuple(str(s) for s in rng.permutation(STOPS)))

    def to_json(self) -> dict[str, Any]:
        return {
            "values": self.values,
            "ranking": {name: list(people) for name, people in self.ranking.items()},
            "route": list(self.route),
        }


def read_world(directory: str | Path) -> World:
    """The world of a directory that `write_world` wrote. Raises DataError where world.json is missing or not one."""
    path = Path(directory) / WORLD_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != WORLD_FORMAT:
            raise ValueError(f"format {found['format']!r}, known: {WORLD_FORMAT}")
        facts = found["facts"]
        ranking = {name: tuple(people) for name, people in facts["ranking"].items()}
        return World(int(found["seed"]), facts["values"], ranking, tuple(facts["route"]))
    except FileNotFoundError as error:
        raise DataError("there is no such world", where=str(path), next_step="write it with write_world") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("this is not a world", where=str(path), why=str(error)) from error
