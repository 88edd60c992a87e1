"""The one fake of all suites: a Scorer whose scores are known by arithmetic, with no model behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rmray.data.group import group_paths
from rmray.models.scorer import Encoded, RawScores, ScorerInfo
from rmray.schema import (
    Content,
    ItemResult,
    ScoreFailure,
    ScoreRequest,
    ScoreResponse,
    ScoreResult,
    TokenIds,
    num_chars,
)


def text_of(content: Content) -> str:
    """All text of a prompt or completion, joined."""
    if isinstance(content, TokenIds):
        return "".join(chr(i) for i in content.ids)
    if isinstance(content, str):
        return content
    return "".join(str(m.get("content") or "") for m in content)


class ArithmeticScorer:
    """raw = score(prompt text, completion text); a token is a character; over `max_length` is a ScoreFailure."""

    def __init__(
        self,
        score: Callable[[str, str], float] = lambda prompt, completion: float(len(completion)),
        *,
        max_length: int = 1000,
        mean: float = 0.0,
        std: float = 1.0,
        version: str = "fake-1",
    ) -> None:
        self.info = ScorerInfo("fake", "scalar", version, "fake-reference", "fake-tokenizer", max_length)
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
        return ScoreResponse(results=tuple(self._result(s, raw) for s in encoded.slots), id=encoded.request.id)

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
