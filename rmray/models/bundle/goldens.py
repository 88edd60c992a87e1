"""Goldens: texts, the token ids they must render to, and the scores the exported files gave. Used by export and load.

The scores come from a fresh process with plain transformers (`clean_scores.py`), so that agreement at load shows that
training's files, rmray's forward and everybody else's transformers are one model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rmray.data.batch import TOKEN_READOUTS, read_places
from rmray.data.group import TokenGroup
from rmray.errors import BundleError
from rmray.models.bundle import clean_scores as clean_script
from rmray.models.bundle.classifier import plain_pooling
from rmray.models.bundle.manifest import GOLDENS_NAME
from rmray.models.bundle.request_json import request_from_json, request_to_json
from rmray.models.lora import ADAPTER_DIR
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


def make_goldens(encoder: Encoder, requests: Sequence[ScoreRequest], directory: Path, *, pooling: str) -> Goldens:
    """Render requests and score them with plain transformers in a clean process.

    A request that cannot be scored whole (over-long, say) makes no golden. Raises BundleError: none is left, or padding
    changes plain transformers' own scores.
    """
    encoded = [e for e in encoder.encode(requests) if not any(isinstance(s, ScoreFailure) for s in e.slots)]
    if not encoded:
        raise BundleError(
            "no golden request can be scored",
            where=str(directory),
            why=next((f"{s.code}: {s.message}" for s in _failures(encoder, requests)), "there is none"),
            next_step="give goldens (or a reference file) whose records fit the model's max_length",
        )
    groups = [_group(e) for e in encoded]
    ids = [_paths(e) for e in encoded]
    read = "last" if pooling == "first" else pooling  # only to say which tokens: transformers reads them by itself
    places = [read_places(g, k, read).tolist() for g in groups for k in range(g.num_completions)]
    clean = clean_scores(directory, list(chain(*ids)), places, pooling=pooling)
    each = iter(clean["alone"])
    items = tuple(
        Golden(e.request, paths, g.prompt_lens, tuple(tuple(next(each)) for _ in paths), g.step_ends)
        for e, paths, g in zip(encoded, ids, groups, strict=True)
    )
    made_with: dict[str, str] = {k: clean[k] for k in ("class", "torch", "transformers", "peft") if k in clean}
    padded = {side: list(chain(*clean[side])) for side in ("right", "left") if clean[side] is not None}
    return Goldens(items, tolerance_of(list(chain(*clean["alone"])), padded, where=str(directory)), made_with)


def _failures(encoder: Encoder, requests: Sequence[ScoreRequest]) -> list[ScoreFailure]:
    return [s for e in encoder.encode(requests) for s in e.slots if isinstance(s, ScoreFailure)]


def _group(encoded: Encoded) -> TokenGroup:
    if encoded.group is None:
        raise ValueError("a request without a path to score")
    return encoded.group


def _paths(encoded: Encoded) -> tuple[tuple[int, ...], ...]:
    group = _group(encoded)
    return tuple(tuple(int(i) for i in group.path(k)) for k in range(group.num_completions))


def clean_scores(
    directory: Path, paths: Sequence[Sequence[int]], places: Sequence[Sequence[int]], *, pooling: str
) -> dict[str, Any]:
    """What plain transformers gives for `paths`, in a process of its own; see `clean_scores.py` for the keys.

    places: of each path the tokens that are read, where transformers does not choose them by itself.

    Raises BundleError with the end of its output where it fails.
    """
    natural, is_decoder = plain_pooling(directory)
    if pooling != natural and not (pooling == "mean" and natural == "last" and is_decoder):
        raise BundleError(f"the model's head reads `{natural}`, and `{pooling}` was asked for", where=str(directory))
    adapter = Path(directory, ADAPTER_DIR)
    with tempfile.TemporaryDirectory() as scratch:
        request, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        request.write_text(
            json.dumps(
                {
                    "directory": str(Path(directory).resolve()),
                    "adapter": str(adapter.resolve()) if adapter.is_dir() else None,
                    "read": pooling if pooling in TOKEN_READOUTS or pooling != natural else "sequence",
                    "left": is_decoder,
                    "paths": [list(p) for p in paths],
                    "places": [list(p) for p in places],
                }
            )
        )
        # -P keeps the script's own folder off the path; no GPU, so that the scores are those of fp32 on the CPU.
        ran = subprocess.run(
            [sys.executable, "-P", clean_script.__file__, str(request), str(answer)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if ran.returncode != 0 or not answer.is_file():
            raise BundleError(
                "plain transformers could not score the exported files",
                where=str(directory),
                why="\n".join((ran.stderr or ran.stdout).strip().splitlines()[-3:])
                or f"its process ended with {ran.returncode}",
            )
        return dict(json.loads(answer.read_text()))


def tolerance_of(alone: Sequence[float], padded: Mapping[str, Sequence[float]], *, where: str) -> float:
    """TOLERANCE, or what float32 can hold for this model: a large one, or one with large scores, moves more than that
    by the shape of its batches alone. padded: side -> the same scores in padded batches.

    Raises BundleError where padding moves scores beyond rounding: that is a fault of the files.
    """
    alone_N = np.asarray(alone)
    if not np.isfinite(alone_N).all():
        raise BundleError("the exported files give scores that are not finite", where=where)
    noise = {side: float(np.abs(np.asarray(scores) - alone_N).max()) for side, scores in padded.items()}
    side, worst = max(noise.items(), key=lambda item: item[1])
    if not worst <= 1e-4 * max(1.0, float(np.abs(alone_N).max())):
        raise BundleError(
            f"{side} padding changes the model's scores by up to {worst:.3g} in plain transformers",
            where=where,
            why="the score is not read at the last real token, or padding is attended to",
            next_step="check config.json's pad_token_id: it must differ from the end of sequence and occur in no text",
        )
    return max(TOLERANCE, 4 * worst)


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
    for k, (expected, actual) in enumerate(zip(golden.token_ids, _paths(got), strict=True)):
        if expected != actual:
            pairs = enumerate(zip(expected, actual, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(actual)))
            return (
                f"completion {k} has {list(expected[at : at + 5])} at token {at} in the bundle and "
                f"{list(actual[at : at + 5])} here, {len(expected)} tokens and {len(actual)} in all"
            )
    if golden.step_ends != _group(got).step_ends:
        return f"steps that end at {golden.step_ends} in the bundle and {_group(got).step_ends} here"
    if golden.prompt_lens != _group(got).prompt_lens:
        return f"prompts of {golden.prompt_lens} tokens in the bundle and {_group(got).prompt_lens} here"
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
