"""Write a town and the preference data about it as files. Called by the quickstart and by tests.

    pairs-*     prompt, chosen, rejected (chat messages), margin, score_chosen, score_rejected, source (the flaw), id
    kwise-*     prompt (messages), completions, scores, source, id: in shuffled order, ties among them
    outcome-*   prompt (messages), completion, label, source, id
    process-*   prompt (text), steps, labels, source, id
    rollouts    prompt (messages), completions, scores, id: what a policy sampled, and what it is truly worth
    world.json  the facts, the seed, the share of turned labels and the best possible accuracy

`-train` and `-test` never share a prompt. All files but process speak of the same prompts; rollouts of held-out ones.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmray.data.world.duels import Duel, draw_twins
from rmray.data.world.facts import WORLD_FILE, WORLD_FORMAT, World
from rmray.data.world.prompts import read_prompt
from rmray.data.world.quality import RIGHT, draw_flawed, sample_completions, true_quality
from rmray.data.world.questions import RATINGS
from rmray.data.world.steps import Solution, draw_solution

NUM_SAMPLES = 8
"""Completions of each rollout prompt."""
SPLITS = ("train", "test")
MAX_DRAWS_WITHOUT_NEWS = 2_000


@dataclass(frozen=True, slots=True)
class WorldFiles:
    """Where the files are. best_accuracy: of the held-out pairs, those whose label was not turned."""

    directory: Path
    world: World
    pairs_train: Path
    pairs_test: Path
    rollouts: Path
    num_train_pairs: int
    num_test_pairs: int
    best_accuracy: float


def write_world(
    directory: str | Path,
    *,
    num_prompts: int,
    seed: int,
    num_test_prompts: int = 500,
    num_rollouts: int = 64,
    label_noise: float = 0.02,
) -> WorldFiles:
    """Write all files; the same arguments give the same bytes.

    num_prompts, num_test_prompts: different prompts of pairs-train and pairs-test (one more where twins end uneven);
    most have one pair. process files have as many rows, kwise a fourth, outcome half as many. label_noise: share of
    pairs, of both splits, whose preference is turned round, ratings and all; no model can agree with them.
    Raises ValueError where the town has fewer prompts than asked for.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    world = World.from_seed(seed)
    rng = np.random.default_rng([seed, 1])
    test = _draw_duels(world, num_test_prompts, set(), rng)
    train = _draw_duels(world, num_prompts, {duel.prompt for duel in test}, rng)
    solved: set[str] = set()
    num_turned = {}
    for split, duels in zip(SPLITS, (train, test), strict=True):
        turned = rng.random(len(duels)) < label_noise
        num_turned[split] = int(turned.sum())
        some = [duels[i] for i in sorted(rng.permutation(len(duels))[: max(1, len(duels) // 4)])]
        solutions = _draw_solutions(len(duels), solved, rng)
        rows: dict[str, Iterable[dict[str, Any]]] = {
            "pairs": (_pair_row(duel, bool(t)) for duel, t in zip(duels, turned, strict=True)),
            "kwise": (_kwise_row(world, duel, rng) for duel in some),
            "outcome": (row for duel in some for row in _outcome_rows(duel)),
            "process": map(_process_row, solutions),
        }
        for name, made in rows.items():
            _write_rows(directory / f"{name}-{split}.jsonl.gz", made, f"{name}-{split}")
    prompts = list(dict.fromkeys(duel.prompt for duel in test))[:num_rollouts]
    _write_rows(directory / "rollouts.jsonl.gz", (_rollout_row(world, p, seed) for p in prompts), "rollout")
    best_accuracy = 1 - num_turned["test"] / len(test)
    facts = {
        "format": WORLD_FORMAT,
        "seed": seed,
        "label_noise": label_noise,
        "num_turned": num_turned,
        "num_pairs": {"train": len(train), "test": len(test)},
        "best_accuracy": best_accuracy,
        "ratings": RATINGS,
        "facts": world.to_json(),
    }
    (directory / WORLD_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return WorldFiles(
        directory=directory,
        world=world,
        pairs_train=directory / "pairs-train.jsonl.gz",
        pairs_test=directory / "pairs-test.jsonl.gz",
        rollouts=directory / "rollouts.jsonl.gz",
        num_train_pairs=len(train),
        num_test_pairs=len(test),
        best_accuracy=best_accuracy,
    )


def _draw_duels(world: World, num_prompts: int, taken: set[str], rng: np.random.Generator) -> list[Duel]:
    """Twins, whole, until there are `num_prompts` prompts; none is in `taken`, and no duel is there twice."""
    found: dict[Duel, None] = {}
    prompts: set[str] = set()
    without_news = 0
    while len(prompts) < num_prompts:
        twins = draw_twins(world, rng)
        without_news += 1
        if any(duel in found or duel.prompt in taken for duel in twins) or twins[0] == twins[1]:
            if without_news > MAX_DRAWS_WITHOUT_NEWS:
                raise ValueError(f"the town has {len(prompts)} prompts to ask, fewer than {num_prompts}")
            continue
        without_news = 0
        found.update(dict.fromkeys(twins))
        prompts.update(duel.prompt for duel in twins)
    duels = list(found)
    # Twins lie apart in the file, so that nothing follows from a row's neighbour.
    return [duels[i] for i in rng.permutation(len(duels))]


def _draw_solutions(num: int, taken: set[str], rng: np.random.Generator) -> list[Solution]:
    """Solutions of different prompts, none of them in `taken`, which grows by them."""
    found: list[Solution] = []
    while len(found) < num:
        solution = draw_solution(rng)
        if solution.prompt not in taken:
            taken.add(solution.prompt)
            found.append(solution)
    return found


def _pair_row(duel: Duel, turned: bool) -> dict[str, Any]:
    completions = (duel.rejected, duel.chosen) if turned else (duel.chosen, duel.rejected)
    good, bad = RATINGS[RIGHT], RATINGS[duel.flaw]
    return {
        "prompt": _user(duel.prompt),
        "chosen": [{"role": "assistant", "content": completions[0]}],
        "rejected": [{"role": "assistant", "content": completions[1]}],
        "margin": good - bad,
        "score_chosen": good,
        "score_rejected": bad,
        "source": duel.flaw,
    }


def _kwise_row(world: World, duel: Duel, rng: np.random.Generator) -> dict[str, Any]:
    """The right completion, the duel's flawed one and up to four more flawed ones, all different."""
    question = read_prompt(duel.prompt)
    rated = {duel.chosen: RATINGS[RIGHT], duel.rejected: RATINGS[duel.flaw]}
    for _ in range(int(rng.integers(1, 5))):
        flaw, completion = draw_flawed(world, question, rng)
        rated.setdefault(completion, RATINGS[flaw])
    order = rng.permutation(len(rated))
    completions, scores = list(rated), list(rated.values())
    return {
        "prompt": _user(duel.prompt),
        "completions": [completions[i] for i in order],
        "scores": [scores[i] for i in order],
        "source": "kwise",
    }


def _outcome_rows(duel: Duel) -> list[dict[str, Any]]:
    prompt = _user(duel.prompt)
    return [
        {"prompt": prompt, "completion": duel.chosen, "label": True, "source": RIGHT},
        {"prompt": prompt, "completion": duel.rejected, "label": False, "source": duel.flaw},
    ]


def _process_row(solution: Solution) -> dict[str, Any]:
    return {
        "prompt": solution.prompt,
        "steps": list(solution.steps),
        "labels": list(solution.labels),
        "source": "sum_in_steps",
    }


def _rollout_row(world: World, prompt: str, seed: int) -> dict[str, Any]:
    completions = sample_completions(world, prompt, NUM_SAMPLES, seed)
    scores = [true_quality(world, prompt, completion) for completion in completions]
    return {"prompt": _user(prompt), "completions": completions, "scores": scores, "source": "rollout"}


def _user(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _write_rows(path: Path, rows: Iterable[dict[str, Any]], name: str) -> None:
    """Gzipped JSON lines, ids in order; no time stamp or file name inside, so that equal rows are equal bytes."""
    lines = (json.dumps({**row, "id": f"{name}-{i:06d}"}) + "\n" for i, row in enumerate(rows))
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.writelines(line.encode() for line in lines)
