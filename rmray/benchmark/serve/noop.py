"""A scorer that does nothing, to see what a call costs beyond Serve's own. Served by `cluster`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmray.data.group import TokenGroup
from rmray.models.scorer import Encoded, RawScores, ScorerInfo
from rmray.schema import ScoreRequest, ScoreResponse, ScoreResult

NOOP = "noop"
REQUEST = ScoreRequest(prompt="What is two plus three?", completions=(" Five.",) * 8)
_TOKEN = np.zeros(1, dtype=np.int32)


class NoopScorer:
    """A Scorer by its shape: every completion is one token and scores 0."""

    def __init__(self) -> None:
        self.info = ScorerInfo(NOOP, "scalar", NOOP, "", "", 1)

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        return [_encoded(request) for request in requests]

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        return [np.zeros(len(encoded.slots)) for encoded in batch]

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        results = tuple(
            ScoreResult(raw=score, reward=score, quantile=0.5, model_version=NOOP, reference="", num_tokens=1)
            for score in raw.tolist()
        )
        return ScoreResponse(results=results, id=encoded.request.id)


def _encoded(request: ScoreRequest) -> Encoded:
    k = len(request.completions)
    return Encoded(request, TokenGroup(_TOKEN, (_TOKEN,) * k, (1,) * k), tuple(range(k)), (False,) * k)
