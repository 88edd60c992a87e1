"""What is scored: a bundle of a shape with random weights, and groups of text about the town. Called by `run`.

Prompts have 400 characters and more. Ids are those of the texts, so that both kinds of content are the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rmray.benchmark.conversations import texts_of, write_conversations
from rmray.benchmark.serve.settings import GROUP_SIZES, IDS, TEXT
from rmray.benchmark.shapes import SHAPES
from rmray.models.scorer import Scorer
from rmray.schema import Content, ScoreRequest, TokenIds

MAX_LENGTH = 8192
MIN_PROMPT_CHARS = 400
SIGMA, MOST_OF_MEAN = 0.9, 5
"""Lengths are log-normal, as in the other benchmarks' workloads, and cut at so many times their mean."""
NUM_TEXTS, NUM_REFERENCE = 400, 12

Work = dict[tuple[str, int], list[ScoreRequest]]
"""Requests by content and completions a request. Those of one completion are those of groups of 8, taken apart in
order: callers who ask at once ask about the same prompts."""


@dataclass(frozen=True, slots=True)
class Town:
    """directory: where the texts lie and bundles are made. texts: messages about the town."""

    directory: Path
    texts: tuple[str, ...]

    @classmethod
    def write(cls, directory: Path, seed: int) -> Town:
        rows = write_conversations(directory, num_pairs=NUM_TEXTS, seed=seed)
        return cls(directory, tuple(texts_of(rows)))


def make_groups(
    town: Town, num_groups: int, seed: int, *, prompt_chars: float, completion_chars: float
) -> list[ScoreRequest]:
    """Groups of 16 completions of text, drawn from the town's sentences."""
    rng = np.random.default_rng(seed)
    sentences = [text for text in dict.fromkeys(town.texts) if text.strip()]

    def write(chars: float) -> str:
        text = ""
        while len(text) < chars:
            text += f" {sentences[rng.integers(len(sentences))]}"
        return text

    def chars(mean: float) -> float:
        return min(float(rng.lognormal(np.log(mean) - SIGMA**2 / 2, SIGMA)), MOST_OF_MEAN * mean)

    return [
        ScoreRequest(
            prompt=write(max(MIN_PROMPT_CHARS, chars(prompt_chars))).strip(),
            completions=tuple(write(chars(completion_chars)) for _ in range(max(GROUP_SIZES))),
        )
        for _ in range(num_groups)
    ]


def make_work(groups: Sequence[ScoreRequest], scorer: Scorer) -> Work:
    """The groups as text and as token ids, whole, as groups of 8, and completion by completion."""
    kinds = {TEXT: list(groups), IDS: [_as_ids(group, scorer) for group in groups]}
    work: Work = {}
    for content, whole in kinds.items():
        for k in GROUP_SIZES:
            work[content, k] = [_part(group, range(k)) for group in whole]
        work[content, 1] = [_part(group, [k]) for group in whole for k in range(GROUP_SIZES[0])]
    return work


def _part(group: ScoreRequest, chosen: Sequence[int]) -> ScoreRequest:
    return replace(group, completions=tuple(group.completions[k] for k in chosen), finished=())


def _as_ids(group: ScoreRequest, scorer: Scorer) -> ScoreRequest:
    (encoded,) = scorer.encode([group])
    paths = encoded.group
    assert paths is not None  # none is blank or too long
    (prompt_len,) = set(paths.prompt_lens)  # completions begin with a blank, at which tokens begin too
    return ScoreRequest(
        prompt=TokenIds(tuple(paths.path(0)[:prompt_len].tolist())),
        completions=tuple(_ids(paths.path(k)[prompt_len:]) for k in range(paths.num_completions)),
        tokenizer_hash=scorer.info.tokenizer_hash,
    )


def _ids(ids: Any) -> Content:
    return TokenIds(tuple(ids.tolist()))


def describe(work: Work, scorer: Scorer) -> dict[str, float]:
    """Means of the groups of 8: tokens of a prompt and of a completion, and `padded`: what one padded forward a group
    computes over the tokens with the prompt once."""
    groups = [encoded.group for encoded in scorer.encode(work[IDS, GROUP_SIZES[0]])]
    known = [group for group in groups if group is not None]
    widest = [max(len(g.prefix) + len(s) for s in g.suffixes) * g.num_completions for g in known]
    return {
        "prompt_tokens": float(np.mean([len(g.prefix) for g in known])),
        "completion_tokens": float(np.mean([len(s) for g in known for s in g.suffixes])),
        "prompt_chars": float(np.mean([len(str(r.prompt)) for r in work[TEXT, GROUP_SIZES[0]]])),
        "padded": sum(widest) / sum(g.num_tokens for g in known),
    }


def make_bundle(town: Town, model: str, seed: int) -> Path:
    """A bundle of the shape, exported as a trained model is; its directory."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from rmray.data.render import RenderRules
    from rmray.data.tokenizer import load_tokenizer
    from rmray.models.bundle import export_bundle
    from rmray.models.tiny_base import build_tiny_base

    shape, base = SHAPES[model], town.directory / f"{model}-base"
    build_tiny_base(
        base,
        town.texts,
        layers=shape.num_hidden_layers,
        hidden=shape.hidden_size,
        heads=shape.num_attention_heads,
        vocab_size=shape.vocab_size,
        max_length=MAX_LENGTH,
        seed=seed,
    )
    source = town.directory / f"{model}-model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        torch.nn.init.normal_(classifier.score.weight)  # so that scores differ by more than rounding
    classifier.save_pretrained(source)
    AutoTokenizer.from_pretrained(base).save_pretrained(source)
    rules = RenderRules.for_tokenizer(load_tokenizer(str(source)), max_length=MAX_LENGTH)
    reference = [
        _part(group, range(2)) for group in make_groups(town, 12, seed + 1, prompt_chars=400, completion_chars=160)
    ]
    directory = town.directory / f"{model}-bundle"
    export_bundle(
        source, directory, name=model, objective="bradley_terry", pooling="last", rules=rules, reference=reference
    )
    return directory
