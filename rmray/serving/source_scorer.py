"""A source of scores that has no forward of its own (a judge, a model on another server) as a Scorer for the engine.

Made by `app.recipes`. Such a source may be slow, and what it asks may be away: every completion then has its own
failure, with a code that clients try again on, and no forward fails. So the engine never takes the replica for broken
because of a server that a new replica would not bring back; a fault of the source's own code still counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rmray.data.group import TokenGroup
from rmray.errors import RequestError
from rmray.models.model_server import failure_of
from rmray.models.scorer import Encoded, RawScores, ScorerInfo
from rmray.schema import ItemResult, ScoreRequest, ScoreResponse, ScoreResult, content_tokens

if TYPE_CHECKING:
    from rmray.evaluation.source import RewardSource
    from rmray.models.reward import Reference

QUESTION_TOKENS = 500
"""Of a judge's own words in each question."""
MOST_TOKENS = 16384
"""A request counts for no more: it is a batch of its own anyway, and must not be refused for its size."""

Cost = Callable[[ScoreRequest], Sequence[int]]
"""Tokens that each of the K completions makes the source read."""


@dataclass(frozen=True, slots=True)
class Asked(Encoded):
    """A request for the source. The tokens of its group are counted and never read. results: what the forward left."""

    results: list[ItemResult] = field(default_factory=list)


class SourceScorer:
    """A Scorer by its shape: `encode` counts, `forward` asks the source, `decode` gives what it said.

    asks_others: whether a question may cost somebody money, so that none is asked for the sake of asking.
    """

    asks_others = True

    def __init__(self, source: RewardSource, cost: Cost) -> None:
        self.info: ScorerInfo = source.info
        self.reference: Reference | None = getattr(source, "reference", None)
        self._source, self._cost = source, cost

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        """What each request costs; the source itself says which completions it cannot score."""
        return [self._asked(request) for request in requests]

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        """Raw scores of each request's completions, NaN where there is none: `decode` says why."""
        try:
            responses = self._source.score([encoded.request for encoded in batch])
        except RequestError as error:  # what no request escapes, such as a refused key
            responses = [
                ScoreResponse(results=(failure_of(error),) * len(encoded.slots), id=encoded.request.id)
                for encoded in batch
            ]
        raws = []
        for encoded, response in zip(batch, responses, strict=True):
            assert isinstance(encoded, Asked)
            encoded.results[:] = response.results
            raws.append(np.array([r.raw if isinstance(r, ScoreResult) else math.nan for r in response.results]))
        return raws

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        """The source's own results."""
        assert isinstance(encoded, Asked)
        return ScoreResponse(results=tuple(encoded.results), id=encoded.request.id)

    def _asked(self, request: ScoreRequest) -> Asked:
        count = len(request.completions)
        tokens_K = self._cost(request)
        share = min(1.0, MOST_TOKENS / max(1, sum(tokens_K)))
        suffixes = tuple(np.broadcast_to(np.int32(0), max(1, int(n * share))) for n in tokens_K)  # no memory
        group = TokenGroup(np.zeros(0, dtype=np.int32), suffixes, (0,) * count)
        return Asked(request, group, tuple(range(count)), (False,) * count)


def text_cost(request: ScoreRequest) -> list[int]:
    """Prompt and completion, each completion read once."""
    prompt = content_tokens(request.prompt)
    return [prompt + content_tokens(completion) for completion in request.completions]


def grade_cost(request: ScoreRequest) -> list[int]:
    """A question for each completion."""
    return [QUESTION_TOKENS + tokens for tokens in text_cost(request)]


def pair_cost(request: ScoreRequest) -> list[int]:
    """Two questions for each two completions, one of them counted for each."""
    prompt, answers_K = content_tokens(request.prompt), [content_tokens(c) for c in request.completions]
    rivals, total = len(answers_K) - 1, sum(answers_K)
    return [rivals * (QUESTION_TOKENS + prompt + answer) + total - answer for answer in answers_K]
