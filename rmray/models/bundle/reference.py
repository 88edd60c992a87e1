"""Score a reference set with a model that has none yet, and keep its records for the next one. Used by export, import
and warm starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rmray.errors import BundleError
from rmray.models.bundle.goldens import Forward
from rmray.models.bundle.manifest import REFERENCE_NAME
from rmray.models.bundle.request_json import request_from_json, request_to_json
from rmray.models.reward import Reference, reference_of_scores
from rmray.models.scorer import batches_by_tokens
from rmray.schema import ScoreFailure, ScoreRequest

CHUNK_REQUESTS = 256  # rendered at once; within them long goes with long


def hash_of_requests(requests: Iterable[ScoreRequest]) -> str:
    """16 hex: content hash of what is scored, whatever the order of the records; their `id`s do not count."""
    each = sorted(
        hashlib.sha256(json.dumps({**request_to_json(r), "id": None}, sort_keys=True).encode()).hexdigest()
        for r in requests
    )
    return hashlib.sha256("".join(each).encode()).hexdigest()[:16]


def reference_statistics(
    scorer: Forward, requests: Sequence[ScoreRequest], *, source: str, max_batch_tokens: int = 16384
) -> Reference:
    """Mean, population std and 101 quantiles of the raw scores of every completion of `requests`.

    Completions that cannot be scored (over-long ones) are counted and left out; the hash is of all records, so that
    models with different limits share it. Raises BundleError where the scores cannot normalise anything.
    """
    scores, num_failed = reference_scores(scorer, requests, max_batch_tokens=max_batch_tokens)
    return reference_of_scores(scores, source=source, hash=hash_of_requests(requests), num_failed=num_failed)


def reference_scores(
    scorer: Forward, requests: Sequence[ScoreRequest], *, max_batch_tokens: int = 16384
) -> tuple[list[float], int]:
    """Raw scores of every completion that can be scored, in an order that the rendering alone decides, and how many
    cannot."""
    scores: list[float] = []
    num_failed = 0
    for start in range(0, len(requests), CHUNK_REQUESTS):
        encoded = scorer.encode(requests[start : start + CHUNK_REQUESTS])
        num_failed += sum(isinstance(slot, ScoreFailure) for e in encoded for slot in e.slots)
        for batch in batches_by_tokens([e.num_tokens for e in encoded], max_batch_tokens):
            chosen = [encoded[i] for i in batch]
            for of, raw in zip(chosen, scorer.forward(chosen), strict=True):
                scores.extend(scorer.completion_scores(of, raw))
    return scores, num_failed


def save_reference(directory: Path, requests: Iterable[ScoreRequest]) -> None:
    """Write DIR/reference.jsonl, a request a line."""
    lines = (json.dumps(request_to_json(request), ensure_ascii=False) for request in requests)
    (directory / REFERENCE_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def load_reference(directory: Path, *, hash: str) -> list[ScoreRequest] | None:
    """The records of DIR/reference.jsonl, None where a bundle does not keep them. hash: what they must hash to.

    Raises BundleError where the file is damaged, or is of another set.
    """
    path = directory / REFERENCE_NAME
    if not path.is_file():
        return None
    try:
        requests = [request_from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        found = hash_of_requests(requests)
        if found != hash:
            raise ValueError(f"its records hash to {found}, and the bundle's reference is {hash}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            "the bundle's reference records cannot be used",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            next_step="copy the bundle again, or name the file of its reference in data.reference",
        ) from error
    return requests
