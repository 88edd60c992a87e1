"""The workloads: literal shapes, groups of random tokens drawn from them, and what padding makes of them. Pure numpy.

Called by `train` and `score`. Legend: P tokens of a prompt, R of a completion, K completions of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rmray.data.group import TokenGroup

MAX_LENGTH = 8192
"""Longest prompt and longest completion drawn, in tokens. It takes 1% off the largest mean of the table."""
PAD_ID = 0
WINDOW_BATCHES = 16
"""Pairs are ordered by length inside windows of so many batches: over the whole set would be a curriculum."""


@dataclass(frozen=True, slots=True)
class Workload:
    """prompt_mean (P), completion_mean (R): mean lengths in tokens, log-normal with `sigma`, each drawn by itself.

    completions: K, even. max_length: where lengths are cut, prompt and completion each.
    """

    name: str
    prompt_mean: float
    completion_mean: float
    completions: int
    sigma: float = 0.9
    max_length: int = MAX_LENGTH

    @property
    def ideal(self) -> float:
        """K(P + R) / (P + KR): tokens of K separate paths over tokens with the prompt once, at the means."""
        prompt, completion, k = self.prompt_mean, self.completion_mean, self.completions
        return k * (prompt + completion) / (prompt + k * completion)

    @property
    def prompt_share(self) -> float:
        """P / (P + R)."""
        return self.prompt_mean / (self.prompt_mean + self.completion_mean)

    def expected_length(self, mean: float) -> float:
        """The mean after cutting: E[min(X, max_length)] of a log-normal X (rounding and the floor of 1 aside)."""
        if not self.sigma:
            return min(mean, self.max_length)
        z = (math.log(self.max_length) - _mu(mean, self.sigma)) / self.sigma
        return mean * _normal_cdf(z - self.sigma) + self.max_length * (1 - _normal_cdf(z))


WORKLOADS = {
    w.name: w
    for w in (
        Workload("multi-turn", 125, 45, 2),
        Workload("chat", 120, 290, 2),
        Workload("rollouts-8", 512, 256, 8),
        Workload("rollouts-16", 1024, 256, 16),
        Workload("losing", 16, 400, 2),
    )
}
GRID = tuple(
    Workload(f"P{share:.0%} K{k}", share * 256, (1 - share) * 256, k) for k in (2, 4, 8) for share in (0.1, 0.5, 0.9)
)
"""For the plot of speed-up over prompt share and K: paths of 256 tokens."""


def make_groups(workload: Workload, num_groups: int, vocab_size: int, seed: int = 0) -> list[TokenGroup]:
    """Groups of random token ids in [1, vocab_size): never the pad id 0."""
    rng = np.random.default_rng(seed)

    def ids(length: int) -> np.ndarray:
        return rng.integers(PAD_ID + 1, vocab_size, length, dtype=np.int32)

    groups = []
    for _ in range(num_groups):
        (prompt_len,) = _lengths(workload, workload.prompt_mean, 1, rng)
        lengths = _lengths(workload, workload.completion_mean, workload.completions, rng)
        groups.append(TokenGroup(ids(prompt_len), tuple(ids(n) for n in lengths), (prompt_len,) * workload.completions))
    return groups


def _lengths(workload: Workload, mean: float, size: int, rng: np.random.Generator) -> list[int]:
    drawn = rng.lognormal(_mu(mean, workload.sigma), workload.sigma, size)
    return [int(n) for n in np.clip(np.rint(drawn), 1, workload.max_length)]


def _mu(mean: float, sigma: float) -> float:
    return math.log(mean) - sigma**2 / 2


def _normal_cdf(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


def pair_lengths(groups: Iterable[TokenGroup]) -> list[tuple[int, int]]:
    """Lengths of the two paths of each disjoint pair (0, 1), (2, 3), ... of each group, prompt included."""
    return [
        (len(g.prefix) + len(g.suffixes[k]), len(g.prefix) + len(g.suffixes[k + 1]))
        for g in groups
        for k in range(0, g.num_completions - 1, 2)
    ]


def length_order(pairs: Sequence[tuple[int, int]], batch_pairs: int, seed: int = 0) -> list[int]:
    """The order in which a careful user gives pairs to a padding trainer: shuffled, sorted by their longer path inside
    windows of 16 batches, and the batches shuffled again."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pairs)).tolist()
    window = WINDOW_BATCHES * batch_pairs
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        ordered = sorted(order[start : start + window], key=lambda i: max(pairs[i]))
        batches += [ordered[at : at + batch_pairs] for at in range(0, len(ordered), batch_pairs)]
    return [i for b in rng.permutation(len(batches)) for i in batches[b]]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What some groups come to, by arithmetic. given: prompt and completion of every path. shared: the prompt once a
    group. padded_random, padded_by_length: batches of pairs, as wide as their longest path.
    """

    given: int
    shared: int
    padded_random: int
    padded_by_length: int


def count_tokens(groups: Sequence[TokenGroup], batch_pairs: int, seed: int = 0) -> TokenCounts:
    """The counts of groups whose disjoint pairs are trained on in batches of `batch_pairs`."""
    pairs = pair_lengths(groups)
    shuffled = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    return TokenCounts(
        given=sum(map(sum, pairs)),
        shared=sum(g.num_tokens for g in groups),
        padded_random=_padded(pairs, shuffled, batch_pairs),
        padded_by_length=_padded(pairs, length_order(pairs, batch_pairs, seed), batch_pairs),
    )


def _padded(pairs: Sequence[tuple[int, int]], order: Sequence[int], batch_pairs: int) -> int:
    batches = [order[at : at + batch_pairs] for at in range(0, len(order), batch_pairs)]
    return sum(2 * len(batch) * max(max(pairs[i]) for i in batch) for batch in batches)
