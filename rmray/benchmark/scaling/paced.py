"""A scorer whose forward sleeps for as long as a cost model says. Served by `cluster`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.load import measure_groups
from rmray.data.group import TokenGroup
from rmray.models.scorer import Encoded, RawScores, ScorerInfo
from rmray.schema import ScoreRequest, ScoreResponse, ScoreResult, TokenIds

VERSION = "paced"


def request_of(group: TokenGroup, place: int) -> ScoreRequest:
    """The request whose forward costs what the group's does."""
    prompt = TokenIds(tuple(group.prefix.tolist()))
    completions = tuple(TokenIds(tuple(s.tolist())) for s in group.suffixes)
    return ScoreRequest(prompt=prompt, completions=completions, id=str(place))


class PacedScorer:
    """A Scorer by its shape; every completion scores 0. Takes token ids alone, with the prompt as what they share."""

    def __init__(self, pace: ForwardCost) -> None:
        self.info = ScorerInfo(VERSION, "scalar", VERSION, "", "", 1)
        self._pace = pace

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        return [_encoded(request) for request in requests]

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        groups = measure_groups([e.group for e in batch if e.group is not None])
        time.sleep(self._pace.seconds(sum(g.tokens for g in groups), sum(g.pairs for g in groups)))
        return [np.zeros(g.completions) for g in groups]

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        results = tuple(
            ScoreResult(raw=score, reward=score, quantile=0.5, model_version=VERSION, reference="", num_tokens=1)
            for score in raw.tolist()
        )
        return ScoreResponse(results=results, id=encoded.request.id)


def _encoded(request: ScoreRequest) -> Encoded:
    prompt, *suffixes = (_ids(content) for content in (request.prompt, *request.completions))
    k = len(suffixes)
    group = TokenGroup(prompt, tuple(suffixes), (len(prompt),) * k)
    return Encoded(request, group, tuple(range(k)), (False,) * k)


def _ids(content: object) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    # The probe of a replica that starts is text.
    ids = content.ids if isinstance(content, TokenIds) else (0,)
    return np.array(ids, dtype=np.int32)
