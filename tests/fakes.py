"""The one fake of all suites: a Scorer whose scores are known by arithmetic, with no model behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rmray.data.group import group_paths
from rmray.metrics.aggregates import aggregate
from rmray.models.scorer import Encoded, RawScores, ScorerInfo
from rmray.schema import (
    Content,
    ItemResult,
    ScoreFailure,
    ScoreRequest,
    ScoreResponse,
    ScoreResult,
    Steps,
    TokenIds,
    num_chars,
)


def text_of(content: Content) -> str:
    """All text of a prompt or completion, joined."""
    if isinstance(content, TokenIds):
        return "".join(chr(i) for i in content.ids)
    if isinstance(content, str):
        return content
    if isinstance(content, Steps):
        return "".join(content.texts)
    return "".join(str(m.get("content") or "") for m in content)


def written_probabilities(content: Content) -> tuple[float, ...]:
    """Of a text every word that is a number, of steps the first word of each: what is written is what comes out."""
    words = [text.split()[0] for text in content.texts] if isinstance(content, Steps) else text_of(content).split()
    return tuple(float(word) for word in words if word.replace(".", "", 1).isdigit())


class ArithmeticScorer:
    """raw = score(prompt text, completion text); a token is a character; over `max_length` is a ScoreFailure.

    kind: `outcome` and `process` give `written_probabilities` too.
    """

    def __init__(
        self,
        score: Callable[[str, str], float] = lambda prompt, completion: float(len(completion)),
        *,
        max_length: int = 1000,
        mean: float = 0.0,
        std: float = 1.0,
        version: str = "fake-1",
        kind: str = "scalar",
    ) -> None:
        self.info = ScorerInfo("fake", kind, version, "fake-reference", "fake-tokenizer", max_length)
        self._score, self._mean, self._std = score, mean, std

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        return [self._encode(r) for r in requests]

    def _encode(self, request: ScoreRequest) -> Encoded:
        prompt = text_of(request.prompt)
        paths: list[list[int]] = []
        slots: list[int | ScoreFailure] = []
        for completion in request.completions:
            text = text_of(completion)
            if not text:
                slots.append(ScoreFailure(code="blank_completion", message="nothing to score"))
            elif len(prompt) + num_chars(completion) > self.info.max_length:
                slots.append(ScoreFailure(code="over_length", message="too long"))
            else:
                slots.append(len(paths))
                paths.append([ord(c) for c in prompt + text])
        group = group_paths(paths, [len(prompt)] * len(paths)) if paths else None
        return Encoded(request, group, tuple(slots), (False,) * len(slots))

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        return [
            np.array(
                [
                    self._score(text_of(e.request.prompt), text_of(c))
                    for c, slot in zip(e.request.completions, e.slots, strict=True)
                    if not isinstance(slot, ScoreFailure)
                ]
            )
            for e in batch
        ]

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        results = [
            self._with_details(self._result(slot, raw), completion)
            for slot, completion in zip(encoded.slots, encoded.request.completions, strict=True)
        ]
        return ScoreResponse(results=tuple(results), id=encoded.request.id)

    def _with_details(self, result: ItemResult, completion: Content) -> ItemResult:
        if self.info.kind not in ("outcome", "process") or isinstance(result, ScoreFailure):
            return result
        probs = written_probabilities(completion)
        mean, low, product = aggregate(probs)
        told = replace(result, token_scores=probs, prob_mean=mean, prob_min=low, prob_product=product)
        if self.info.kind == "outcome":
            return told
        labels = tuple(1 if p > 0.6 else 0 if p > 0.4 else -1 for p in probs)
        return replace(told, step_labels=labels, first_error=labels.index(-1) if -1 in labels else -1)

    def _result(self, slot: int | ScoreFailure, raw: RawScores) -> ItemResult:
        if isinstance(slot, ScoreFailure):
            return slot
        value = float(raw[slot])
        if not np.isfinite(value):
            return ScoreFailure(code="non_finite", message="the score is not finite")
        reward = (value - self._mean) / self._std
        return ScoreResult(
            raw=value,
            reward=reward,
            quantile=0.5,
            model_version=self.info.model_version,
            reference=self.info.reference,
            num_tokens=1,
        )
