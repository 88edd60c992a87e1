"""EnsembleScorer: several Scorers of one tokenizer and one reference set as one. Made by `bundle.load_bundle`.

Raw scores of different members have no common scale, so each is normalised by its member's own reference statistics
first; what the rewards combine to is normalised once more, so that an ensemble's reward has mean 0 and standard
deviation 1 on the reference set too. Legend: P paths of a group, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rmray.models.combine import Combination, Floats
from rmray.models.head_scorer import result_of
from rmray.models.reward import Reference, Unfinished
from rmray.models.scorer import Encoded, ForwardTokens, RawScores, Scorer, ScorerInfo
from rmray.schema import ItemResult, ScoreFailure, ScoreRequest, ScoreResponse


class EnsembleScorer:
    """A Scorer whose results carry `member_scores` and `disagreement`.

    members: they render alike; the first one does it for all. references: of each member, what normalises its raw
    scores. combination: what rewards become. reference: what normalises that. unfinished: the members' common policy.
    """

    def __init__(
        self,
        members: Sequence[Scorer],
        *,
        references: Sequence[Reference],
        combination: Combination,
        info: ScorerInfo,
        reference: Reference,
        unfinished: Unfinished,
    ) -> None:
        self.info = info
        self.members = tuple(members)
        self.combination = combination
        self.reference = reference
        self.unfinished = unfinished
        self._references = tuple(references)

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        """Render and tokenise, once for all members."""
        return self.members[0].encode(requests)

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        """The members' forwards one after the other. For each element raw scores [P, M]: a row a path, a column a
        member."""
        of_members = [member.forward(batch) for member in self.members]
        return [np.stack(raw_MP, axis=1) for raw_MP in zip(*of_members, strict=True)]

    @property
    def shares_prompts(self) -> bool:
        """Whether every member's forward computes a prompt once for all the requests that carry it."""
        return all(getattr(member, "shares_prompts", False) for member in self.members)

    @property
    def last_forward(self) -> ForwardTokens | None:
        """Of each member, where the first one says it: they compute the same tokens."""
        return getattr(self.members[0], "last_forward", None)

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        """raw: [P, M] of `encoded.group`. K results in the order of the request's completions."""
        results = [
            slot if isinstance(slot, ScoreFailure) else self._result(encoded, k, slot, raw[slot])
            for k, slot in enumerate(encoded.slots)
        ]
        return ScoreResponse(results=tuple(results), id=encoded.request.id)

    def _result(self, encoded: Encoded, k: int, slot: int, raw_M: Floats) -> ItemResult:
        broken = np.flatnonzero(~np.isfinite(raw_M))
        if len(broken):
            m = int(broken[0])
            version = self.members[m].info.model_version
            return ScoreFailure(code="non_finite", message=f"member {m} (version {version}) gave {raw_M[m]}")
        rewards_M = member_rewards(raw_M[None], self._references)[0]
        combined = float(self.combination.combine(rewards_M[None])[0])
        result = result_of(encoded, k, slot, combined, self.info, self.reference, self.unfinished)
        if isinstance(result, ScoreFailure):
            return result
        # Before a penalty for an unfinished completion, which comes off `reward` once: these combine to `raw`.
        return replace(result, member_scores=tuple(rewards_M.tolist()), disagreement=float(rewards_M.std()))


def member_rewards(raw_NM: Floats, references: Sequence[Reference]) -> Floats:
    """Raw scores of M members, each normalised by its own reference statistics."""
    mean_M, std_M = (np.array([getattr(r, name) for r in references]) for name in ("mean", "std"))
    rewards_NM: Floats = (raw_NM - mean_M) / std_M
    return rewards_NM
