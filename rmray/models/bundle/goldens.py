"""Goldens: texts, the token ids they must render to, and the scores the exported files gave. Checked at every load.

`make_goldens` makes them, at export.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from rmray.data.group import TokenGroup
from rmray.errors import BundleError
from rmray.models.bundle.manifest import GOLDENS_NAME
from rmray.models.bundle.request_json import request_from_json, request_to_json
from rmray.models.scorer import Encoded, RawScores
from rmray.schema import ScoreFailure, ScoreRequest

TOLERANCE = 1e-5  # fp32 on the same kind of device, absolute
# Elsewhere (bf16, a GPU), in reference standard deviations. bf16 of a 30M model was measured 0.02-0.04 from fp32. An
# error of at most 0.1 each keeps the order of any two scores that lie more than 0.2 apart.
LOOSE_MAX, LOOSE_MEAN = 0.1, 0.03
# Of the probabilities of tokens or steps, absolute: at a single place rounding moves more than it does a whole score.
PLACE_MAX, PLACE_MEAN = 0.15, 0.02
MIN_STD = 0.1  # of scores made of probabilities: a model that tells little apart has a reference of no width


class Encoder(Protocol):
    """The part of a Scorer that renders; it needs no weights."""

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]: ...


class Forward(Encoder, Protocol):
    """The part of a Scorer that gives raw scores, so that goldens work before a bundle has a reference."""

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]: ...

    def completion_scores(self, encoded: Encoded, raw: RawScores) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class Golden:
    """One request with, for each of its K completions, the token ids of the whole path, the prompt's share of them, the
    places of the tokens that end its steps (where the model reads steps), and what the fp32 model gave: one raw score;
    of an outcome model a probability a token, of a process model three a step.
    """

    request: ScoreRequest
    token_ids: tuple[tuple[int, ...], ...]
    prompt_lens: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    step_ends: tuple[tuple[int, ...], ...] = ()

    @property
    def values(self) -> list[float]:
        """All numbers of `scores`, completion after completion."""
        return [value for scores in self.scores for value in scores]


@dataclass(frozen=True, slots=True)
class Goldens:
    """tolerance: absolute, for fp32 on the CPU. made_with: versions and class that gave the scores."""

    items: tuple[Golden, ...]
    tolerance: float
    made_with: dict[str, str]

    @property
    def scores(self) -> list[float]:
        return [value for golden in self.items for value in golden.values]

    def save(self, directory: Path) -> None:
        raw = {
            "tolerance": self.tolerance,
            "made_with": self.made_with,
            "items": [
                {
                    "request": request_to_json(g.request),
                    "token_ids": [list(ids) for ids in g.token_ids],
                    "prompt_lens": list(g.prompt_lens),
                    "scores": [list(scores) for scores in g.scores],
                    "step_ends": [list(ends) for ends in g.step_ends],
                }
                for g in self.items
            ],
        }
        text = json.dumps(raw, allow_nan=False, ensure_ascii=False)
        (directory / GOLDENS_NAME).write_text(text + "\n", encoding="utf-8")


def load_goldens(directory: Path) -> Goldens:
    """Read DIR/goldens.json. Raises BundleError where it is damaged or empty."""
    path = directory / GOLDENS_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        items = tuple(
            Golden(
                request_from_json(item["request"]),
                tuple(tuple(ids) for ids in item["token_ids"]),
                tuple(item["prompt_lens"]),
                tuple(tuple(map(float, scores)) for scores in item["scores"]),
                tuple(tuple(map(int, ends)) for ends in item["step_ends"]),
            )
            for item in raw["items"]
        )
        if not items:
            raise ValueError("no golden")
        return Goldens(items, float(raw["tolerance"]), dict(raw["made_with"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            "the bundle's goldens cannot be read",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            next_step="copy the bundle again from where it was made",
        ) from error


def check_goldens(goldens: Goldens, scorer: Forward, *, std: float | None, where: str, on_average: bool = True) -> None:
    """Render and score every golden; raise BundleError naming the first difference.

    std: None holds `scorer` to the goldens' tolerance (fp32 on a CPU); the reference's standard deviation allows what
    another precision or device may differ by. on_average: hold the mean difference to its own, smaller bound; that of
    a few scores says nothing.
    """
    encoded = scorer.encode([g.request for g in goldens.items])
    for n, (golden, got) in enumerate(zip(goldens.items, encoded, strict=True)):
        fault = different_ids(golden, got)
        if fault:
            raise BundleError(
                f"golden {n} renders to other token ids: {fault}",
                where=where,
                why="the tokenizer, the chat template or the render rules are not those the model was trained with",
                next_step="load the bundle with the versions in its goldens.json "
                f"({', '.join(f'{k} {v}' for k, v in goldens.made_with.items())}), or export it anew",
            )
    raw = scorer.forward(encoded)
    actual = list(chain(*(each.ravel().tolist() for each in raw)))
    if std is None:
        fault = different_scores(goldens.scores, actual, max_gap=goldens.tolerance)
    else:
        by_place = len(actual) > sum(len(golden.token_ids) for golden in goldens.items)
        expected_raw = [np.array(g.values).reshape(each.shape) for g, each in zip(goldens.items, raw, strict=True)]
        expected, found = (
            [score for of, each in zip(encoded, rows, strict=True) for score in scorer.completion_scores(of, each)]
            for rows in (expected_raw, raw)
        )
        width = max(std, MIN_STD) if by_place else std
        mean_gap = LOOSE_MEAN * width if on_average else None
        fault = different_scores(expected, found, max_gap=LOOSE_MAX * width, mean_gap=mean_gap)
        if by_place and not fault:
            mean_gap = PLACE_MEAN if on_average else None
            fault = different_scores(goldens.scores, actual, max_gap=PLACE_MAX, mean_gap=mean_gap)
    if fault:
        raise BundleError(
            f"the goldens score differently here: {fault}",
            where=where,
            why="served rewards would not be those the model was trained and evaluated with",
            next_step="load it in float32 on a CPU to tell a damaged bundle from a device that computes differently",
        )


def different_ids(golden: Golden, got: Encoded) -> str:
    """What differs first between the ids a golden has and those it renders to now; empty where nothing does."""
    for slot in got.slots:
        if isinstance(slot, ScoreFailure):
            return f"it cannot be rendered ({slot.code}: {slot.message})"
    for k, (expected, actual) in enumerate(zip(golden.token_ids, paths_of(got), strict=True)):
        if expected != actual:
            pairs = enumerate(zip(expected, actual, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(actual)))
            return (
                f"completion {k} has {list(expected[at : at + 5])} at token {at} in the bundle and "
                f"{list(actual[at : at + 5])} here, {len(expected)} tokens and {len(actual)} in all"
            )
    if golden.step_ends != group_of(got).step_ends:
        return f"steps that end at {golden.step_ends} in the bundle and {group_of(got).step_ends} here"
    if golden.prompt_lens != group_of(got).prompt_lens:
        return f"prompts of {golden.prompt_lens} tokens in the bundle and {group_of(got).prompt_lens} here"
    return ""


def different_scores(
    expected: Sequence[float], actual: Sequence[float], *, max_gap: float, mean_gap: float | None = None
) -> str:
    """What differs between golden scores and actual ones beyond what is allowed, absolute; empty where nothing does."""
    gaps = np.abs(np.asarray(actual, dtype=np.float64) - np.asarray(expected, dtype=np.float64))
    worst = int(np.argmax(np.where(np.isfinite(gaps), gaps, np.inf)))
    example = f"{expected[worst]:.6f} in the bundle, {actual[worst]:.6f} here"
    if not np.isfinite(gaps).all():
        return f"score {worst} is {actual[worst]} here and {expected[worst]:.6f} in the bundle"
    if gaps[worst] > max_gap:
        return (
            f"{int((gaps > max_gap).sum())} of {len(gaps)} by more than {max_gap:.2g}, up to {gaps[worst]:.3g} "
            f"({example})"
        )
    if mean_gap is not None and gaps.mean() > mean_gap:
        return f"by {gaps.mean():.3g} on average, more than {mean_gap:.2g} ({example} at most)"
    return ""


def group_of(encoded: Encoded) -> TokenGroup:
    """Its paths. ValueError where nothing of it can be scored."""
    if encoded.group is None:
        raise ValueError("a request without a path to score")
    return encoded.group


def paths_of(encoded: Encoded) -> tuple[tuple[int, ...], ...]:
    """The token ids of each path, prompt and completion."""
    group = group_of(encoded)
    return tuple(tuple(int(i) for i in group.path(k)) for k in range(group.num_completions))
