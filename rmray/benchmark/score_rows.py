"""The rows of `benchmark score`: rmray's scorer and three ways in which peers score. Called by `score`.

Each gives the same scores, group after group and completion after completion, and is timed as a whole: planning,
collation and the forward. Token ids are given; the pipeline takes text, as pipelines do, and its tokenizer is timed.
Legend: N paths, L tokens of the longest in a batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from rmray.benchmark.flops import LinearMeter, PlainMeter, Work, batch_work, lengths_of, synchronize
from rmray.benchmark.settings import ScoreSettings
from rmray.benchmark.timing import Run
from rmray.benchmark.workloads import PAD_ID
from rmray.data.group import TokenGroup
from rmray.models.backbone import RewardBackbone, check_packed
from rmray.models.head_scorer import HeadScorer, RequestEncoder
from rmray.models.heads import set_head_float32
from rmray.models.reward import UNNORMALISED, Unfinished
from rmray.models.scorer import Encoded, RawScores, ScorerInfo, score_requests
from rmray.schema import ScoreRequest, ScoreResponse, ScoreResult, TokenIds

Scores = npt.NDArray[np.float64]


class EncodedScorer(HeadScorer):
    """A trained head's scorer whose requests are encoded already; it notes tokens and attended pairs."""

    def __init__(self, backbone: RewardBackbone, groups: Sequence[TokenGroup], device: str) -> None:
        # Neither encoder nor reference is asked for anything but the policy for unfinished completions: all are whole.
        super().__init__(
            backbone,
            cast(RequestEncoder, _NoEncoder()),
            info=ScorerInfo("benchmark", "scalar", "", "", "", 0),
            pooling="last",
            reference=UNNORMALISED,
            device=device,
        )
        self.encoded = [_encoded(group) for group in groups]
        self.work = Work()

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        return self.encoded

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        lengths = lengths_of(e.group for e in batch if e.group is not None)
        self.work += batch_work(lengths, packed=self.backbone.packed)
        return super().forward(batch)


class _NoEncoder:
    unfinished = Unfinished()


def _encoded(group: TokenGroup) -> Encoded:
    prompt = TokenIds(tuple(group.prefix.tolist()))
    request = ScoreRequest(prompt=prompt, completions=tuple(TokenIds(tuple(s.tolist())) for s in group.suffixes))
    k = group.num_completions
    return Encoded(request, group, tuple(range(k)), (False,) * k)


class RmrayRow:
    """A bundle's scorer from encoded requests to responses: its own planning, batching, forward and normalising."""

    def __init__(self, prototype: Any, groups: Sequence[TokenGroup], settings: ScoreSettings) -> None:
        model = copy.deepcopy(prototype).to(settings.device, settings.torch_dtype).eval()
        set_head_float32(model)
        model.score.float()
        self._scorer = EncodedScorer(RewardBackbone(model), groups, settings.device)
        check_packed(self._scorer.backbone)
        self._settings = settings
        self._linear = 0

    @property
    def packed(self) -> bool:
        return bool(self._scorer.backbone.packed)

    def score(self) -> Scores:
        """One score a completion."""
        requests = [encoded.request for encoded in self._scorer.encoded]
        responses: list[ScoreResponse] = score_requests(
            self._scorer, requests, max_batch_tokens=self._settings.max_batch_tokens
        )
        return np.array([r.raw for response in responses for r in response.results if isinstance(r, ScoreResult)])

    def __call__(self) -> Run:
        self._scorer.work = Work()
        meter = LinearMeter(self._scorer.backbone.model)
        with nullcontext() if self._linear else meter:  # every run computes the same: the first is counted
            seconds = _seconds(self.score, self._settings.device)
        self._linear = self._linear or meter.operations
        return Run(seconds, self._scorer.work + Work(linear=self._linear))


class PlainRow:
    """Plain transformers: `Qwen3ForSequenceClassification` on paths of prompt and completion, by one of `WAYS`."""

    def __init__(self, way: str, prototype: Any, groups: Sequence[TokenGroup], settings: ScoreSettings) -> None:
        self._model = copy.deepcopy(prototype).to(settings.device, settings.torch_dtype).eval()
        self._paths = [torch.from_numpy(g.path(k).astype(np.int64)) for g in groups for k in range(g.num_completions)]
        self._settings = settings
        self._make_way = WAYS[way]
        self._way = self._make_way(self._model, self._paths, settings)
        self._work: Work | None = None

    def score(self) -> Scores:
        """One score a completion."""
        with torch.inference_mode():
            return self._way()

    def tune(self, budgets: Iterable[int]) -> int:
        """Take the token budget, of those given, that is fastest here in one run; the budget."""
        seconds: dict[int, float] = {}
        for budget in budgets:
            self.set_budget(budget)
            seconds[budget] = self().seconds
        best = min(seconds, key=seconds.__getitem__)
        self.set_budget(best)
        return best

    def set_budget(self, max_batch_tokens: int) -> None:
        """Batch by this many tokens from now on."""
        settings = replace(self._settings, max_batch_tokens=max_batch_tokens)
        self._way = self._make_way(self._model, self._paths, settings)
        self._work = None

    def __call__(self) -> Run:
        meter = PlainMeter(self._model)
        with nullcontext() if self._work else meter:
            seconds = _seconds(self.score, self._settings.device)
        self._work = self._work or meter.work()
        return Run(seconds, self._work)


def _seconds(score: Callable[[], Scores], device: str) -> float:
    synchronize(device)
    start_s = time.perf_counter()
    score()
    synchronize(device)
    return time.perf_counter() - start_s


def _padded(model: Any, paths: Sequence[torch.Tensor], settings: ScoreSettings) -> Callable[[], Scores]:
    """Sorted by length, longest first, as many rows to a batch as its padded tokens allow."""

    def score() -> Scores:
        scores = np.zeros(len(paths))
        for batch in padded_batches([len(path) for path in paths], settings.max_batch_tokens):
            rows = [paths[i] for i in batch]
            input_ids_NL = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD_ID)
            lengths_N = torch.tensor([len(row) for row in rows])
            mask_NL = (torch.arange(input_ids_NL.shape[1]) < lengths_N[:, None]).long()
            scores[batch] = _logits(model, input_ids_NL, mask_NL, settings.device)
        return scores

    return score


def padded_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Indices in batches of rows x longest row <= `max_batch_tokens` (a longer row alone), longest first."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _one_by_one(model: Any, paths: Sequence[torch.Tensor], settings: ScoreSettings) -> Callable[[], Scores]:
    """What a server does that answers each request with a forward of its own."""

    def score() -> Scores:
        return np.concatenate([_logits(model, path[None], None, settings.device) for path in paths])

    return score


def _pipeline(model: Any, paths: Sequence[torch.Tensor], settings: ScoreSettings) -> Callable[[], Scores]:
    """transformers' text-classification pipeline on texts, in the order in which they come."""
    from transformers import pipeline

    from rmray.benchmark.words import text_of, word_tokenizer

    classify = pipeline(
        "text-classification",
        model=model,
        tokenizer=word_tokenizer(model.config.get_text_config().vocab_size),
        device=settings.device,
        function_to_apply="none",
        batch_size=settings.pipeline_batch,
    )
    texts = [text_of(path.tolist()) for path in paths]

    def score() -> Scores:
        return np.array([result["score"] for result in classify(texts)])

    return score


WAYS: dict[str, Callable[[Any, Sequence[torch.Tensor], ScoreSettings], Callable[[], Scores]]] = {
    "transformers padded": _padded,
    "pipeline": _pipeline,
    "one by one": _one_by_one,
}


def _logits(model: Any, input_ids_NL: torch.Tensor, mask_NL: torch.Tensor | None, device: str) -> Scores:
    mask = None if mask_NL is None else mask_NL.to(device)
    logits_N1: torch.Tensor = model(input_ids=input_ids_NL.to(device), attention_mask=mask, use_cache=False).logits
    scores_N: Scores = logits_N1.squeeze(-1).double().cpu().numpy()
    return scores_N
