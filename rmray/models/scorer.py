"""One Scorer: encode -> forward -> decode. Evaluation, offline scoring and serving call nothing else.

The trained head (`bundle.load_bundle`), an ensemble, a judge and the tests' arithmetic fake implement it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rmray.data.group import TokenGroup
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse

RawScores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """Who answers. model_version: content hash of weights and rules. reference: hash of the reference set.

    kind: `scalar`, later `outcome`, `process`, `ensemble`, `judge`. max_length: longest path in tokens.
    """

    name: str
    kind: str
    model_version: str
    reference: str
    tokenizer_hash: str
    max_length: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """One request ready for the forward.

    group: the paths of those completions that can be scored, or None where there is none.
    slots: for each of the request's K completions its place in `group`, or why it cannot be scored.
    truncated: for each of the K completions.
    """

    request: ScoreRequest
    group: TokenGroup | None
    slots: tuple[int | ScoreFailure, ...]
    truncated: tuple[bool, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens the forward computes for this request."""
        return self.group.num_tokens if self.group else 0


@dataclass(frozen=True, slots=True)
class ForwardTokens:
    """What one forward computed. computed: tokens that went through the model, padding: those of them that are none."""

    computed: int
    padding: int = 0


class Scorer(Protocol):
    """Thread rule: `encode` and `decode` may run on other threads than `forward`, which runs on one.

    One whose forward computes a prompt once for all the requests that carry it says so by a true `shares_prompts`: a
    batch may then hold more of them. One that knows what its last forward computed has it as `last_forward`, to be read
    on the forward's thread; one that normalises against a reference set has its statistics as `reference`.
    """

    info: ScorerInfo

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        """Render and tokenise. A bad completion becomes a ScoreFailure in `slots` and never fails its neighbours."""
        ...

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        """One packed forward; for each element a float64 array with one raw score a path of its group (of an ensemble
        one row a path, with a raw score of each member)."""
        ...

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        """Normalise against the reference set; a non-finite raw score becomes a ScoreFailure `non_finite`."""
        ...


def score_requests(
    scorer: Scorer, requests: Sequence[ScoreRequest], *, max_batch_tokens: int = 16384
) -> list[ScoreResponse]:
    """Score many requests in token-budget batches, long with long, answers in the order of the requests."""
    encoded = scorer.encode(requests)
    responses: list[ScoreResponse | None] = [None] * len(encoded)
    for batch in batches_by_tokens([e.num_tokens for e in encoded], max_batch_tokens):
        raw = scorer.forward([encoded[i] for i in batch])
        for i, scores in zip(batch, raw, strict=True):
            responses[i] = scorer.decode(encoded[i], scores)
    return [r for r in responses if r is not None]


def batches_by_tokens(num_tokens: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most `max_batch_tokens` (one larger element gets a batch of its own), longest first."""
    batch: list[int] = []
    total = 0
    for i in sorted(range(len(num_tokens)), key=lambda i: -num_tokens[i]):
        if batch and total + num_tokens[i] > max_batch_tokens:
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += num_tokens[i]
    if batch:
        yield batch
