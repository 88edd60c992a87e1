"""Make a bundle's goldens: render requests, and score them with plain transformers in a clean process. Used by export.

The scores come from a fresh process (`clean_scores.py`), so that agreement at load shows that training's files, rmray's
forward and everybody else's transformers are one model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rmray.data.batch import TOKEN_READOUTS, read_places
from rmray.errors import BundleError
from rmray.models.bundle import clean_scores as clean_script
from rmray.models.bundle.classifier import plain_pooling
from rmray.models.bundle.goldens import TOLERANCE, Encoder, Golden, Goldens, group_of, paths_of
from rmray.models.lora import ADAPTER_DIR
from rmray.schema import ScoreFailure, ScoreRequest


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
    groups = [group_of(e) for e in encoded]
    ids = [paths_of(e) for e in encoded]
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
