"""TokenScorer: the Scorer of outcome and process models. Made by `bundle.load_bundle`; used wherever a Scorer is.

Legend: S tokens or steps of the paths of one request, C probabilities of each: of a token that of being right, of a
step that of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from rmray.data.batch import num_read
from rmray.metrics.aggregates import Aggregates, aggregate
from rmray.metrics.process import called_labels, first_error
from rmray.models.backbone import RewardBackbone
from rmray.models.head_scorer import BackboneScorer, RequestEncoder
from rmray.models.probabilities import RIGHT, step_probabilities, token_probabilities
from rmray.models.scorer import Encoded, RawScores
from rmray.schema import ItemResult, ScoreFailure, ScoreResponse, ScoreResult


class TokenScorer(BackboneScorer):
    """Renders, runs the packed forward, and makes one score of a completion's probabilities: a Scorer.

    pooling: `tokens` for an outcome model, `steps` for a process model. aggregate: `mean`, `min` or `product`, which of
    them is the raw score; of the product its logarithm.
    """

    def __init__(
        self, backbone: RewardBackbone, encoder: RequestEncoder, *, pooling: str, aggregate: str, **given: Any
    ) -> None:
        """given: as `BackboneScorer` takes it."""
        super().__init__(backbone, encoder, pooling=pooling, **given)
        self.aggregate = aggregate

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        """One packed forward, shared as in `HeadScorer`. For each element the float64 probabilities [S] of its tokens
        being right, or [S, C] of its steps' classes, path after path."""
        logits = iter(self.shared_scores(batch))
        if self.pooling == "steps":
            nothing = np.zeros((0, RIGHT + 1))
            return [nothing if e.group is None else step_probabilities(next(logits)) for e in batch]
        return [np.zeros(0) if e.group is None else token_probabilities(next(logits)) for e in batch]

    def completion_scores(self, encoded: Encoded, raw: RawScores) -> list[float]:
        """The raw score of each path of `encoded.group`; NaN where a probability is not finite."""
        return [self._score(probabilities) for probabilities in self._by_path(encoded, raw)]

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        """raw: as `forward` gives it. K results in the order of the request's completions."""
        paths = self._by_path(encoded, raw)
        results = [
            slot if isinstance(slot, ScoreFailure) else self._result(encoded, k, slot, paths[slot])
            for k, slot in enumerate(encoded.slots)
        ]
        return ScoreResponse(results=tuple(results), id=encoded.request.id)

    def _result(self, encoded: Encoded, k: int, slot: int, probabilities: RawScores) -> ItemResult:
        raw = self._score(probabilities)
        result = self.result(encoded, k, slot, raw)
        if not isinstance(result, ScoreResult):
            return result
        right = self._right(probabilities)
        mean, least, product = aggregate(right)
        called = called_labels(probabilities) if self.pooling == "steps" else None
        return replace(
            result,
            token_scores=tuple(right.tolist()),
            prob_mean=mean,
            prob_min=least,
            prob_product=product,
            first_error=None if called is None else first_error(called),
            step_labels=None if called is None else tuple(called.tolist()),
        )

    def _score(self, probabilities: RawScores) -> float:
        right = self._right(probabilities)
        if not np.isfinite(right).all():
            return float("nan")
        if self.aggregate == "product":
            # Of long completions the product itself is too small to tell one from another.
            with np.errstate(divide="ignore"):
                return float(np.log(right).sum())
        aggregates: Aggregates = aggregate(right)
        return float(getattr(aggregates, self.aggregate))

    def _right(self, probabilities: RawScores) -> RawScores:
        return probabilities[:, RIGHT] if self.pooling == "steps" else probabilities

    def _by_path(self, encoded: Encoded, raw: RawScores) -> list[RawScores]:
        if encoded.group is None:
            return []
        return np.split(raw, list(accumulate(num_read(encoded.group, self.pooling)))[:-1])
