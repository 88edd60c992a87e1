"""Multi-turn pairs of text, from the generated town. Called by `workers`, whose runs read files as a user's do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PAIRS_FILE = "pairs.jsonl"
MAX_TURNS, MAX_SENTENCES = 12, 8  # of a conversation before its prompt, and more in a completion; means are half of it


def write_conversations(directory: Path, *, num_pairs: int, seed: int) -> list[dict[str, Any]]:
    """Write DIR/pairs.jsonl, which has `num_pairs` pairs; its rows. The same arguments give the same bytes."""
    from rmray.data.world import write_world

    world = write_world(directory / "town", num_prompts=num_pairs, num_test_prompts=8, num_rollouts=1, seed=seed)
    with gzip.open(world.pairs_train, "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]  # a prompt has one or more
    rows = make_conversations(pairs[:num_pairs], seed)
    (directory / PAIRS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return rows


def make_conversations(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The town's pairs, which are short, as the last turns of conversations about it, with more said in each answer:
    about 125 tokens of prompt and 40 of completion, as multi-turn data has them."""
    rng = np.random.default_rng(seed)

    def some(most: int) -> list[dict[str, Any]]:
        return [rows[i] for i in rng.integers(0, len(rows), int(rng.integers(0, most + 1)))]

    def longer(row: dict[str, Any], side: str) -> list[dict[str, str]]:
        sentences = [other["chosen"][0]["content"] for other in some(MAX_SENTENCES)]
        return [{"role": "assistant", "content": " ".join([*sentences, row[side][0]["content"]])}]

    return [
        {
            "prompt": [turn for other in some(MAX_TURNS) for turn in (*other["prompt"], *other["chosen"])]
            + row["prompt"],
            "chosen": longer(row, "chosen"),
            "rejected": longer(row, "rejected"),
        }
        for row in rows
    ]


def texts_of(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every message, for a tokenizer to be made of."""
    for row in rows:
        for name in ("prompt", "chosen", "rejected"):
            yield from (message["content"] for message in row[name])
