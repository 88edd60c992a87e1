"""HeadScorer: the Scorer of a trained scalar head. Made by `bundle.load_bundle`; used wherever a Scorer is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rmray.data.batch import build_batch, num_read
from rmray.data.group import TokenGroup
from rmray.data.render import RenderedPath, Renderer, group_rendered
from rmray.data.sharing import share_prefixes
from rmray.errors import RowError
from rmray.models.backbone import RewardBackbone
from rmray.models.reward import Reference, Unfinished
from rmray.models.scorer import Encoded, ForwardTokens, RawScores, ScorerInfo
from rmray.schema import ItemResult, ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult, TokenIds


class RequestEncoder:
    """Renders requests by a bundle's rules. Needs the tokenizer alone, no weights; threads may share it."""

    def __init__(self, renderer: Renderer, *, tokenizer_hash: str, unfinished: Unfinished) -> None:
        self.renderer = renderer
        self.tokenizer_hash = tokenizer_hash
        self.unfinished = unfinished

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        """Render and tokenise. A completion that cannot be scored is a ScoreFailure in `slots`."""
        return [self._encode(r) for r in requests]

    def _encode(self, request: ScoreRequest) -> Encoded:
        slots: list[int | ScoreFailure] = []
        truncated: list[bool] = []
        paths: list[RenderedPath] = []
        for finished, rendered in zip(request.finished, self._render(request), strict=True):
            if isinstance(rendered, ScoreFailure):
                slots.append(rendered)
            elif not finished and self.unfinished.policy == "error":
                slots.append(ScoreFailure(code="unfinished", message="this bundle scores finished completions only"))
            else:
                slots.append(len(paths))
                paths.append(rendered)
            truncated.append(isinstance(rendered, RenderedPath) and rendered.truncated)
        group = group_rendered(paths) if paths else None
        return Encoded(request, group, tuple(slots), tuple(truncated))

    def _render(self, request: ScoreRequest) -> list[RenderedPath | ScoreFailure]:
        has_ids = any(isinstance(c, TokenIds) for c in (request.prompt, *request.completions))
        if has_ids and request.tokenizer_hash != self.tokenizer_hash:
            given = f"of tokenizer {request.tokenizer_hash}" if request.tokenizer_hash else "without a tokenizer_hash"
            failure = ScoreFailure(
                code="tokenizer_mismatch",
                message=f"token ids {given}: this bundle takes its own tokenizer's ({self.tokenizer_hash}), or text",
            )
            return [failure] * len(request.completions)
        rendered = self.renderer.render_paths(
            request.prompt,
            request.completions,
            tools=request.tools,
            finished=request.finished,
            truncate=request.truncate,
        )
        return [_failure(r) if isinstance(r, RowError) else r for r in rendered]


class BackboneScorer:
    """What Scorers of a backbone have in common: who answers, rendering, and a forward that shares what begins alike.

    info: who answers. backbone: on `device`, in eval mode. encoder: with the bundle's tokenizer and rules.
    reference: what normalises raw scores. pooling: where a score is read.
    """

    def __init__(
        self,
        backbone: RewardBackbone,
        encoder: RequestEncoder,
        *,
        info: ScorerInfo,
        pooling: str,
        reference: Reference,
        device: torch.device | str = "cpu",
    ) -> None:
        self.info = info
        self.backbone = backbone
        self.encoder = encoder
        self.pooling = pooling
        self.reference = reference
        self.device = torch.device(device)
        self.last_forward = ForwardTokens(0)

    @property
    def renderer(self) -> Renderer:
        return self.encoder.renderer

    @property
    def shares_prompts(self) -> bool:
        """Whether a forward computes a prompt once for all the requests that carry it."""
        return self.backbone.shares_prefixes

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        """Render and tokenise on the CPU; see `RequestEncoder`."""
        return self.encoder.encode(requests)

    def shared_scores(self, batch: Sequence[Encoded]) -> list[RawScores]:
        """What one packed forward gives, float64, for each element of the batch that has a group: a row a path, or a
        token that is read, path after path. Groups that begin alike share that beginning."""
        groups = [e.group for e in batch if e.group is not None]
        if not groups:
            return []
        shared, order = share_prefixes(groups)
        # Entered here, on the thread that runs the forward: torch keeps inference mode per thread.
        with torch.inference_mode():
            flat = build_batch(shared, pooling=self.pooling).to(self.device)
            scores = self.backbone(flat).double().cpu().numpy()
        self.last_forward = self.backbone.forward_tokens(flat)
        ends = np.cumsum([sum(num_read(groups[i], self.pooling)) for i in order])
        found: list[RawScores] = [scores] * len(groups)
        for i, rows in zip(order, np.split(scores, ends[:-1]), strict=True):
            found[i] = rows
        return found

    def result(self, encoded: Encoded, k: int, slot: int, raw: float) -> ItemResult:
        """As `result_of`, of this model."""
        return result_of(encoded, k, slot, raw, self.info, self.reference, self.encoder.unfinished)


class HeadScorer(BackboneScorer):
    """Renders, runs the packed forward and normalises: a Scorer."""

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        """One packed forward, in which groups that begin alike share that beginning. For each element a float64 array
        with one raw score a path of its group."""
        scores = iter(self.shared_scores(batch))
        return [np.zeros(0) if e.group is None else next(scores) for e in batch]

    def completion_scores(self, encoded: Encoded, raw: RawScores) -> list[float]:
        """The raw score of each path of `encoded.group`."""
        scores: list[float] = raw.tolist()
        return scores

    @property
    def reads_tokens(self) -> bool:
        """Whether `token_scores` can be had: a linear head that reads the last token reads any."""
        return self.pooling == "last" and self.backbone.has_score_head

    def token_scores(self, request: ScoreRequest) -> list[list[tuple[str, float]]]:
        """For each completion its text in pieces, a token each, with the raw score if it ended there.

        The last one is the completion's own score. A token that ends inside a character gives an empty piece, and the
        next one the character. A completion that cannot be scored gives an empty list.
        """
        [encoded] = self.encode([request])
        group = encoded.group
        if group is None:
            return [[] for _ in encoded.slots]
        with torch.inference_mode():
            flat = build_batch([group], pooling="mean").to(self.device)  # reads every token of each completion
            scores_R = self.backbone.token_scores(flat).double().cpu().numpy()
        path_R = flat.readout_scores_R.cpu().numpy()
        return [
            [] if isinstance(slot, ScoreFailure) else self._pieces(group, slot, scores_R[path_R == slot])
            for slot in encoded.slots
        ]

    def _pieces(self, group: TokenGroup, slot: int, scores: RawScores) -> list[tuple[str, float]]:
        ids = group.path(slot)[group.prompt_lens[slot] :].tolist()
        return list(zip(self.renderer.token_texts(ids), scores.tolist(), strict=True))

    def decode(self, encoded: Encoded, raw: RawScores) -> ScoreResponse:
        """raw: one score a path of `encoded.group`. K results in the order of the request's completions."""
        results = [
            slot if isinstance(slot, ScoreFailure) else self.result(encoded, k, slot, float(raw[slot]))
            for k, slot in enumerate(encoded.slots)
        ]
        return ScoreResponse(results=tuple(results), id=encoded.request.id)


def result_of(
    encoded: Encoded, k: int, slot: int, raw: float, info: ScorerInfo, reference: Reference, unfinished: Unfinished
) -> ItemResult:
    """What completion k gets, whose path is number `slot` of the group and has the raw score `raw`."""
    if not np.isfinite(raw):
        return ScoreFailure(code="non_finite", message=f"the model gave {raw}")
    penalised = unfinished.policy == "penalty" and not encoded.request.finished[k]
    # The penalty is in reward units; `raw` stays the head's own number.
    effective = raw - unfinished.penalty * reference.std if penalised else raw
    group = encoded.group
    assert group is not None  # a slot points into it
    num_tokens = len(group.prefix) + len(group.suffixes[slot])
    return ScoreResult(
        raw=raw,
        reward=reference.reward(effective),
        quantile=reference.quantile(effective),
        model_version=info.model_version,
        reference=info.reference,
        num_tokens=num_tokens,
        completion_tokens=num_tokens - group.prompt_lens[slot],
        truncated=encoded.truncated[k],
    )


def _failure(error: RowError) -> ScoreFailure:
    return ScoreFailure(code=error.code, message=f"{error.what} ({error.why})" if error.why else error.what)
