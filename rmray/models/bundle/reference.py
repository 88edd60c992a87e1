"""Score a reference set with a model that has none yet. Used by export and import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from rmray.models.bundle.goldens import Forward
from rmray.models.bundle.request_json import request_to_json
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
            for raw in scorer.forward([encoded[i] for i in batch]):
                scores.extend(raw.tolist())
    return scores, num_failed
