"""The generated town: what its files claim is true by an independent check, and no surface rule tells it."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmray.data.sources import read_records
from rmray.data.world import WorldFiles, duels, read_world, sample_completions, true_quality, verdict, write_world
from rmray.data.world.facts import ATTRIBUTES, PEOPLE, World
from rmray.data.world.prompts import CLOSINGS, GREETINGS, read_prompt, word_prompt
from rmray.data.world.questions import (
    IN_FULL,
    LEFT_OPEN,
    RATINGS,
    BothQuestion,
    CompareQuestion,
    FactQuestion,
    RouteQuestion,
    SumQuestion,
)
from rmray.data.world.solver import draw_steps, is_solved
from rmray.data.world.steps import Sum
from rmray.errors import DataError
from rmray.metrics.baselines import bag_of_words_baseline, surface_baseline
from rmray.metrics.ranking import Ranking, rank_pairs
from rmray.schema import Comparison, OutcomeExample, ProcessExample

SURFACE_LIMIT = 0.6
NUMBERS = re.findall(r"\w+", "zero one two three four five six seven eight nine ten eleven twelve")
NAMES = [f"{kind}-{split}" for kind in ("pairs", "kwise", "outcome", "process") for split in ("train", "test")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return write_world(tmp_path_factory.mktemp("world"), num_prompts=4000, num_test_prompts=800, seed=3)


def read(files: WorldFiles, name: str) -> list[dict[str, Any]]:
    with gzip.open(files.directory / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def prompt_text(row: dict[str, Any]) -> str:
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else prompt[0]["content"]


def pair_texts(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in rows]


# An answer key that shares no code with the generator: it reads the facts of world.json and the prompt's words.


def right_answer(facts: dict[str, Any], prompt: str) -> str:
    if route := re.search(r"from (\w+) to (\w+)", prompt):
        start, end = (facts["route"].index(stop) for stop in route.groups())
        step = 1 if end > start else -1
        return ", ".join(facts["route"][i] for i in range(start, end + step, step))
    if word := re.search(r"\b(older|younger|taller|shorter)\b", prompt):
        ranking = facts["ranking"]["age" if word[0] in ("older", "younger") else "height"]
        people = sorted((p for p in ranking if re.search(rf"\b{p}\b", prompt)), key=ranking.index)
        assert len(people) == 2
        first, second = people if word[0] in ("older", "taller") else people[::-1]
        return f"{first} is {word[0]} than {second}."
    if bought := re.search(r"(\w+) (?:has|buys) (\w+) (\w+) and (?:gets|then) (\w+) more", prompt):
        total = NUMBERS.index(bought[2]) + NUMBERS.index(bought[4])
        return f"{bought[1]} has {NUMBERS[total]} {bought[3]}."
    asked = re.sub(r"(We spoke of|I know|I did not ask for|Leave out) the \w+ of \w+( by now)?\.", "", prompt)
    (person,) = re.findall("|".join(facts["values"]["job"]), asked)
    keywords = {"job": "job|living", "pet": "pet", "door": "door", "drink": "drink"}
    places = {name: found.start() for name, words in keywords.items() if (found := re.search(words, asked))}
    said = [say(person, name, facts["values"][name][person]) for name in sorted(places, key=places.__getitem__)]
    if "Leave the last part to me." in prompt:
        return said[0][: said[0].index(facts["values"][next(iter(places))][person])].strip()
    return " ".join(said)


def say(person: str, attribute: str, value: str) -> str:
    verb = {"job": "is a", "pet": "has a", "door": "has a", "drink": "drinks"}[attribute]
    return f"{person} {verb} {value}{' door' if attribute == 'door' else ''}."


def true_labels(prompt: str, steps: list[str]) -> list[int]:
    """+1 while every claim holds, -1 from the first one that does not, 0 for a step that claims nothing."""
    changes = [NUMBERS.index(n) * (1 if verb == "gets" else -1) for verb, n in re.findall(r"(gets|eats) (\w+)", prompt)]
    start = NUMBERS.index(re.search(r"has (\w+)", prompt)[1])
    counts = [start, *(start + int(c) for c in np.cumsum(changes)), start + sum(changes)]
    labels, sound = [], True
    for step in steps:
        claims = [NUMBERS.index(w) for w in re.findall(r"\w+", step.lower()) if w in NUMBERS]
        if not claims:
            labels.append(0)
            continue
        sound = sound and claims[-1] == counts.pop(0)
        labels.append(1 if sound else -1)
    assert sound is False or not counts
    return labels


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    sizes = {"num_prompts": 60, "num_test_prompts": 20, "num_rollouts": 5}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_world(tmp_path / name, seed=seed, **sizes)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted([*(f"{n}.jsonl.gz" for n in NAMES), "rollouts.jsonl.gz", "world.json"])
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert content != (tmp_path / "c" / name).read_bytes()
        if name.endswith(".gz"):
            assert content[4:8] == bytes(4)  # no time stamp, which two files of one second would share


def test_held_out_prompts_are_in_no_training_file(files: WorldFiles) -> None:
    prompts = {name: {prompt_text(r) for r in read(files, name)} for name in [*NAMES, "rollouts"]}
    training = set().union(*(p for name, p in prompts.items() if name.endswith("train")))
    held_out = set().union(*(p for name, p in prompts.items() if not name.endswith("train")))
    assert not training & held_out
    assert len(prompts["pairs-train"]) >= 4000
    assert 800 <= len(prompts["pairs-test"]) <= 801
    assert prompts["rollouts"] <= prompts["pairs-test"]


def test_chosen_and_rejected_have_the_same_words_as_often(tmp_path: Path) -> None:
    files = write_world(tmp_path, num_prompts=1000, seed=0, label_noise=0.0)
    chosen, rejected = zip(*pair_texts(read(files, "pairs-train")), strict=True)
    assert Counter(re.findall(r"\w+|[.,]", " ".join(chosen))) == Counter(re.findall(r"\w+|[.,]", " ".join(rejected)))
    assert sorted(map(len, chosen)) == pytest.approx(sorted(map(len, rejected)), abs=6)
    assert files.best_accuracy == 1.0


def length_rule(rows: list[dict[str, Any]]) -> Ranking:
    lengths = np.array([(len(c), len(r)) for c, r in pair_texts(rows)], dtype=float)
    return rank_pairs(lengths[:, 0], lengths[:, 1])


def overlap_rule(rows: list[dict[str, Any]]) -> Ranking:
    """Share of the completion's words that the prompt holds too."""

    def share(completion: str, prompt: str) -> float:
        words = re.findall(r"\w+", completion.lower())
        return float(np.mean([w in re.findall(r"\w+", prompt.lower()) for w in words]))

    shares = [[share(text, prompt_text(r)) for text in pair] for r, pair in zip(rows, pair_texts(rows), strict=True)]
    return rank_pairs(*np.array(shares).T)


def with_prompt(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (f"{prompt_text(r)} {c}", f"{prompt_text(r)} {j}") for r, (c, j) in zip(rows, pair_texts(rows), strict=True)
    ]


def test_no_surface_rule_tells_chosen_from_rejected(files: WorldFiles) -> None:
    train, test = read(files, "pairs-train"), read(files, "pairs-test")
    found = {
        "length": length_rule(test),
        "overlap": overlap_rule(test),
        "words": bag_of_words_baseline(pair_texts(train), pair_texts(test)),
        "words with prompt": bag_of_words_baseline(with_prompt(train), with_prompt(test)),
        "surface": surface_baseline(pair_texts(train), pair_texts(test)),
    }
    # A tie counts as half a win: an accuracy of 0.4 with 0.4 of ties would be no comfort.
    figures = {name: r.accuracy + r.ties / r.pairs / 2 for name, r in found.items()}
    assert all(figure <= SURFACE_LIMIT for figure in figures.values()), figures


def test_what_is_chosen_is_right_but_for_the_stated_noise(files: WorldFiles) -> None:
    stated = json.loads((files.directory / "world.json").read_text())
    for split in ("train", "test"):
        rows = read(files, f"pairs-{split}")
        turned = 0
        for row, (chosen, rejected) in zip(rows, pair_texts(rows), strict=True):
            right = right_answer(stated["facts"], prompt_text(row))
            assert (chosen == right) != (rejected == right), row
            turned += rejected == right
            better, worse = (rejected, chosen) if rejected == right else (chosen, rejected)
            assert [verdict(files.world, row["prompt"], text) for text in (better, worse)] == ["right", row["source"]]
            assert (row["score_chosen"], row["score_rejected"]) == (RATINGS["right"], RATINGS[row["source"]])
            assert row["margin"] == row["score_chosen"] - row["score_rejected"] > 0
        assert (turned, len(rows)) == (stated["num_turned"][split], stated["num_pairs"][split])
        assert abs(turned / len(rows) - stated["label_noise"]) < 0.02
    assert stated["best_accuracy"] == files.best_accuracy == 1 - turned / len(rows)


def test_all_flaws_are_there(files: WorldFiles) -> None:
    counts = Counter(row["source"] for row in read(files, "pairs-train"))
    assert set(counts) == set(RATINGS) - {"right"}
    assert min(counts.values()) > 0.03 * counts.total()


def test_outcome_labels_are_true(files: WorldFiles) -> None:
    facts = json.loads((files.directory / "world.json").read_text())["facts"]
    rows = [row for split in ("train", "test") for row in read(files, f"outcome-{split}")]
    assert all(row["label"] == (row["completion"] == right_answer(facts, prompt_text(row))) for row in rows)
    assert sum(row["label"] for row in rows) * 2 == len(rows)


def test_step_labels_are_true(files: WorldFiles) -> None:
    rows = [row for split in ("train", "test") for row in read(files, f"process-{split}")]
    for row in rows:
        assert true_labels(row["prompt"], row["steps"]) == row["labels"], row
    labels = Counter(label for row in rows for label in row["labels"])
    assert min(labels[-1], labels[0], labels[1]) > 0.05 * labels.total()
    first_errors = Counter(row["labels"].index(-1) if -1 in row["labels"] else None for row in rows)
    assert len(first_errors) >= 6


def test_scores_of_groups_are_their_true_quality(files: WorldFiles) -> None:
    facts = json.loads((files.directory / "world.json").read_text())["facts"]
    for name in ("kwise-train", "kwise-test", "rollouts"):
        for row in read(files, name):
            scores = [true_quality(files.world, row["prompt"], text) for text in row["completions"]]
            assert scores == row["scores"]
            right = right_answer(facts, prompt_text(row))
            assert [s == 5.0 for s in scores] == [text == right for text in row["completions"]]
    groups = read(files, "kwise-train")
    sizes = {len(row["completions"]) for row in groups}
    assert sizes >= {2, 3, 4, 5, 6}
    assert any(len(set(row["scores"])) < len(row["scores"]) for row in groups)
    first_is_best = np.mean([row["scores"][0] == 5.0 for row in groups])
    assert first_is_best == pytest.approx(np.mean([1 / len(row["scores"]) for row in groups]), abs=0.05)


@pytest.mark.parametrize("name", [*NAMES, "rollouts"])
def test_every_row_is_a_record(files: WorldFiles, name: str) -> None:
    objective, kind = {
        "pairs": ("bradley_terry", Comparison),
        "kwise": ("plackett_luce", Comparison),
        "outcome": ("outcome", OutcomeExample),
        "process": ("process", ProcessExample),
        "rollouts": ("all_pairs", Comparison),
    }[name.split("-")[0]]
    records = list(read_records(str(files.directory / f"{name}.jsonl.gz"), objective=objective, columns={}))
    assert len(records) == len(read(files, name))
    ids = set()
    for *_, record in records:
        assert isinstance(record, kind), record
        ids.add(record.id)
    assert len(ids) == len(records)


QUESTIONS = [
    *(FactQuestion("Ada", attribute) for attribute in ATTRIBUTES),
    FactQuestion("Ada", "job", ("Ben", "pet")),
    FactQuestion("Hana", "door", ending=IN_FULL),
    FactQuestion("Hana", "drink", ending=LEFT_OPEN),
    BothQuestion("Finn", ("door", "job")),
    CompareQuestion("shorter", ("Eve", "Gus")),
    RouteQuestion("mill", "park"),
    SumQuestion("Dan", "figs", 1, 4),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{type(q).__name__}-{q.wordings()[0][:20]}")
def test_a_prompt_reads_back_as_its_question(question: Any) -> None:
    for wording in question.wordings():
        for greeting in GREETINGS:
            for closing in set(CLOSINGS):
                assert read_prompt(f"{greeting} {wording} {closing}".strip()) == question


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{type(q).__name__}-{q.wordings()[0][:20]}")
def test_flawed_completions_are_not_right_and_under_one_flaw_each(question: Any) -> None:
    world = World.from_seed(0)
    flawed = [text for texts in question.flawed(world).values() for text in texts]
    assert len(flawed) == len(set(flawed))
    assert question.answer(world) not in flawed
    assert set(question.flawed(world)) <= set(RATINGS)


def test_sampled_completions_follow_prompt_and_seed() -> None:
    world = World.from_seed(5)
    prompt = word_prompt(FactQuestion("Ada", "job"), np.random.default_rng(0))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    samples = sample_completions(world, prompt, 400, seed=1)
    assert samples == sample_completions(world, messages, 400, seed=1)
    assert samples[:10] == sample_completions(world, prompt, 10, seed=1)
    assert samples != sample_completions(world, prompt, 400, seed=2)
    qualities = Counter(true_quality(world, messages, text) for text in samples)
    assert set(qualities) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert qualities[5.0] / 400 == pytest.approx(0.35, abs=0.08)
    assert true_quality(world, prompt, "I would rather not say.") == RATINGS["off_topic"]


def test_a_prompt_about_something_else_is_refused() -> None:
    with pytest.raises(DataError, match="no question about the town"):
        true_quality(World.from_seed(0), "What is the capital of France?", "Paris.")


def test_worlds_differ_by_seed_and_come_back_from_their_file(files: WorldFiles) -> None:
    assert read_world(files.directory) == files.world == World.from_seed(3) != World.from_seed(4)
    for attribute, values in files.world.values.items():
        assert set(Counter(values.values()).values()) == {len(PEOPLE) // len(ATTRIBUTES[attribute].values)}


def test_a_missing_or_damaged_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such world"):
        read_world(tmp_path)
    (tmp_path / "world.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="format 99"):
        read_world(tmp_path)
    (tmp_path / "world.json").write_text('{"format": 1, "seed"')
    with pytest.raises(DataError, match="not a world"):
        read_world(tmp_path)


def test_asking_for_more_prompts_than_there_are_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duels, "KINDS", {"wrong_order": duels.KINDS["wrong_order"]})
    monkeypatch.setattr(duels, "word_prompt", lambda question, rng: question.wordings()[0])
    with pytest.raises(ValueError, match=r"has \d\d prompts to ask, fewer than 500"):
        write_world(tmp_path, num_prompts=500, num_test_prompts=2, seed=0)


def test_the_simulated_policy_goes_on_from_what_it_claimed_and_is_right_where_it_never_errs() -> None:
    problem = Sum("Ada", "figs", 4, (4, 3, -2))

    def solve(error_rate: float, steps: tuple[str, ...] = ()) -> tuple[str, ...]:
        rng = np.random.default_rng(0)
        while len(steps) < problem.num_claims:
            steps = (*steps, *draw_steps(problem, steps, rng, num=1, error_rate=error_rate))
        return steps

    right = solve(0.0)
    assert is_solved(problem, right)
    assert true_labels(problem.prompt, list(right)) == [1, 1, 1, 1, 1]
    assert not is_solved(problem, right[:-1])
    assert is_solved(problem, solve(0.0, ("Ada starts with four figs.",)))
    astray = solve(0.0, ("Ada starts with twelve figs.",))  # twelve and four has no word: the count stays among those
    assert not is_solved(problem, astray)
    for error_rate in (0.5, 1.0):
        assert len(solve(error_rate)) == problem.num_claims
