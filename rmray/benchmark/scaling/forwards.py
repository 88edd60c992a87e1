"""What forwards take here: a scorer that times its own, and fits. Called by `validation` and the command line."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from rmray.benchmark.scaling.cost import ForwardCost, fit_cost
from rmray.benchmark.scaling.load import measure_groups
from rmray.benchmark.score_rows import EncodedScorer
from rmray.benchmark.shapes import SHAPES, build_classifier
from rmray.benchmark.workloads import WORKLOADS, make_groups
from rmray.data.group import TokenGroup
from rmray.models.backbone import RewardBackbone
from rmray.models.scorer import Encoded, RawScores
from rmray.schema import ScoreRequest

FILLS = (0.05, 0.25, 0.5, 1.0)
"""Of max_batch_tokens: the batches whose forwards are measured."""
PACE = ForwardCost("paced", base_s=0.02, token_s=1e-4)

Forward = tuple[int, int, float]
"""Tokens, attended pairs and seconds of a forward."""


class PoolScorer(EncodedScorer):
    """Answers requests named by their place among encoded groups, and notes what each forward took.

    pace: forwards sleep for so long instead of computing.
    """

    def __init__(self, model: str, groups: Sequence[TokenGroup], *, pace: ForwardCost | None = None) -> None:
        super().__init__(RewardBackbone(build_classifier(SHAPES[model])), groups, "cpu")
        self.encoded = [replace(e, request=replace(e.request, id=str(i))) for i, e in enumerate(self.encoded)]
        self.groups, self._pace = measure_groups(groups), pace
        self.forwards: list[Forward] = []

    @property
    def requests(self) -> list[ScoreRequest]:
        return [e.request for e in self.encoded]

    def encode(self, requests: Sequence[ScoreRequest]) -> list[Encoded]:
        return [self.encoded[int(r.id or 0)] for r in requests]

    def forward(self, batch: Sequence[Encoded]) -> list[RawScores]:
        groups = [self.groups[int(e.request.id or 0)] for e in batch]
        tokens, pairs = sum(g.tokens for g in groups), sum(g.pairs for g in groups)
        start_s = time.perf_counter()
        if self._pace:
            time.sleep(self._pace.seconds(tokens, pairs))
            scores = [np.zeros(g.completions) for g in groups]
        else:
            scores = super().forward(batch)
        self.forwards.append((tokens, pairs, time.perf_counter() - start_s))
        return scores

    def time_forwards(self, max_batch_tokens: int, rng: random.Random) -> list[Forward]:
        """One forward of each fill, of groups drawn at random."""
        self.forwards = []
        for fill in FILLS:
            batch, total = [rng.randrange(len(self.encoded))], 0
            while (total := sum(self.groups[i].tokens for i in batch)) < fill * max_batch_tokens:
                batch.append(rng.randrange(len(self.encoded)))
            if total > max_batch_tokens and len(batch) > 1:
                batch.pop()
            self.forward([self.encoded[i] for i in batch])
        return self.forwards


def measure_cost(
    scorer: PoolScorer, max_batch_tokens: int, *, rounds: int, rng: random.Random, name: str
) -> ForwardCost:
    """The fit of `rounds` forwards of each fill, after one that does not count."""
    scorer.time_forwards(max_batch_tokens, rng)
    return fit_forwards(name, [f for _ in range(rounds) for f in scorer.time_forwards(max_batch_tokens, rng)])


def fit_forwards(name: str, forwards: Sequence[Forward]) -> ForwardCost:
    """The cost that these forwards had."""
    tokens, pairs, seconds = zip(*forwards, strict=True)
    return fit_cost(name, tokens, pairs, seconds, note=f"{len(forwards)} forwards on this machine")


def measure_here(model: str, workload: str, max_batch_tokens: int, *, rounds: int = 3) -> ForwardCost:
    """What forwards of a workload take on one thread of this machine."""
    with one_thread():
        scorer = PoolScorer(model, make_groups(WORKLOADS[workload], 64, SHAPES[model].vocab_size))
        rng = random.Random(0)
        return measure_cost(scorer, max_batch_tokens, rounds=rounds, rng=rng, name=f"{model} on this machine")


@contextmanager
def one_thread() -> Iterator[None]:
    """Of torch, as a replica of one CPU has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
