"""Plan which rank computes which comparisons of a step, in which micro-batch. Pure; no tensors. Called by `chunks`.

Two aims: all ranks finish together (equal cost), and no forward exceeds the token budget. Every rank gets the same
number of micro-batches, because sharded optimizers run collectives in each; a rank that has less to do gets empty ones.

Legend: N comparisons of a step, M suffixes of all of them, K completions of one. Where the forward shares prefixes, a
comparison's computed tokens are its prefix once and its K suffixes; where it pads, K rows as wide as the longest path.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rmray.data.order import Int64

ATTENDED_PER_TOKEN = 6144
"""So many attended (query, key) pairs cost as much as all else that one token costs. A transformer layer of hidden size
h spends about 24 h^2 operations on a token and 4 h on a pair: 6 h, here h = 1024. Only the balance hangs on it."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """What N comparisons cost. A forward of some of them computes (sum of their rows) x (greatest width) tokens.

    rows_N, width_N: K and the longest path where the forward pads. Where it shares prefixes it pads nothing: rows are
    tokens, widths are 1. attended_N: (query, key) pairs under the causal mask.
    """

    rows_N: Int64
    width_N: Int64
    attended_N: Int64

    @property
    def tokens(self) -> Int64:
        """Computed tokens of each comparison alone, [N]."""
        return self.rows_N * self.width_N

    def take(self, rows: Int64 | slice) -> Shapes:
        """The shapes of some of the comparisons."""
        return Shapes(self.rows_N[rows], self.width_N[rows], self.attended_N[rows])


def measure_shapes(
    prefix_lens_N: Int64, suffix_lens_M: Int64, completions_N: Int64, *, shared_prefix: bool = True
) -> Shapes:
    """Shapes from lengths. suffix_lens_M: of all comparisons one after the other; completions_N: K >= 1 of each.

    shared_prefix: False for a forward that pads every path of its own."""
    if not len(prefix_lens_N):
        return Shapes(*(np.zeros(0, dtype=np.int64) for _ in range(3)))
    prefix_N, suffix_M = prefix_lens_N.astype(np.int64), suffix_lens_M.astype(np.int64)
    firsts_N = np.concatenate([[0], np.cumsum(completions_N)[:-1]]).astype(np.int64)
    if not shared_prefix:
        width_N = prefix_N + np.maximum.reduceat(suffix_M, firsts_N)
        paths_N = completions_N.astype(np.int64)
        return Shapes(paths_N, width_N, paths_N * (width_N * (width_N + 1) // 2))
    suffix_tokens_N = np.add.reduceat(suffix_M, firsts_N)
    own_pairs_N = np.add.reduceat(suffix_M * (suffix_M + 1) // 2, firsts_N)
    attended_N = prefix_N * (prefix_N + 1) // 2 + prefix_N * suffix_tokens_N + own_pairs_N
    return Shapes(prefix_N + suffix_tokens_N, np.ones_like(prefix_N), attended_N)


def join_shapes(parts: Sequence[Shapes]) -> Shapes:
    """The shapes of all parts, one after the other."""
    rows, width, attended = zip(*((p.rows_N, p.width_N, p.attended_N) for p in parts), strict=True)
    return Shapes(np.concatenate(rows), np.concatenate(width), np.concatenate(attended))


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Where each of a step's N comparisons goes, for R ranks.

    order_N: comparisons by rank, then micro-batch, then falling width and tokens. bounds_R1: R + 1 places in order_N
    where the ranks begin. micro_batch_N: of each comparison, counted per rank from 0. num_micro_batches: of every rank.
    """

    order_N: Int64
    bounds_R1: Int64
    micro_batch_N: Int64
    num_micro_batches: int

    def share(self, rank: int) -> Int64:
        """The comparisons of one rank, in the order in which it lays them out."""
        return self.order_N[self.bounds_R1[rank] : self.bounds_R1[rank + 1]]

    def micro_batches(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """The comparisons of one rank, micro-batch by micro-batch, some perhaps empty."""
        mine = self.share(rank)
        return tuple(tuple(mine[self.micro_batch_N[mine] == m].tolist()) for m in range(self.num_micro_batches))


def plan_step(
    shapes: Shapes, *, world_size: int, max_micro_batch_tokens: int, attended_per_token: int = ATTENDED_PER_TOKEN
) -> StepPlan:
    """Balance a step's comparisons over ranks by cost, then cut each rank's share into micro-batches.

    max_micro_batch_tokens: computed tokens of one forward; a comparison that alone exceeds it gets a micro-batch of its
    own. Deterministic. Balancing is longest-processing-time-first (Graham 1969): at most 4/3 of the best possible.
    """
    tokens_N = shapes.tokens
    rank_N = _balance(tokens_N * attended_per_token + shapes.attended_N, world_size)
    # Like lengths side by side, longest first: padding wastes least, and what does not fit fails at once.
    order_N = np.lexsort((-tokens_N, -shapes.width_N, rank_N))
    bounds_R1 = np.searchsorted(rank_N[order_N], np.arange(world_size + 1))
    shares = [order_N[low:high] for low, high in pairwise(bounds_R1) if low < high]
    greedy_cuts = [_cut_greedily(shapes.take(mine), max_micro_batch_tokens) for mine in shares]
    num_micro_batches = max((int(cut[-1]) + 1 for cut in greedy_cuts), default=0)
    micro_batch_N = np.zeros(len(tokens_N), dtype=np.int64)
    for mine, greedy_cut in zip(shares, greedy_cuts, strict=True):
        even_cut = _cut_evenly(tokens_N[mine], num_micro_batches)
        micro_batch_N[mine] = even_cut if _fits(shapes.take(mine), even_cut, max_micro_batch_tokens) else greedy_cut
    return StepPlan(order_N, bounds_R1, micro_batch_N, num_micro_batches)


def _balance(cost_N: Int64, world_size: int) -> Int64:
    """The rank of each comparison: dearest first, each to the rank that has least so far."""
    rank_N = np.zeros(len(cost_N), dtype=np.int64)
    if world_size == 1:
        return rank_N
    loads = [(0, rank) for rank in range(world_size)]
    for index in np.argsort(-cost_N, kind="stable").tolist():
        load, rank = loads[0]
        rank_N[index] = rank
        heapq.heapreplace(loads, (load + int(cost_N[index]), rank))
    return rank_N


def _cut_greedily(shapes: Shapes, max_tokens: int) -> Int64:
    """The micro-batch of each of one rank's comparisons, whose widths fall, in as few as their order allows."""
    rows_n = shapes.rows_N
    ends_n = np.cumsum(rows_n)
    cut_n = np.zeros(len(rows_n), dtype=np.int64)
    start, micro_batch = 0, 0
    while start < len(rows_n):
        before, max_rows = int(ends_n[start]) - int(rows_n[start]), max_tokens // int(shapes.width_N[start])
        stop = max(start + 1, int(np.searchsorted(ends_n, before + max_rows, side="right")))
        cut_n[start:stop] = micro_batch
        start, micro_batch = stop, micro_batch + 1
    return cut_n


def _cut_evenly(tokens_n: Int64, num_micro_batches: int) -> Int64:
    """The same in `num_micro_batches` parts of about equal tokens (fewer where there are fewer comparisons), so that
    ranks keep pace inside a step too."""
    middles_n = np.cumsum(tokens_n) - tokens_n / 2
    parts_n = (middles_n * num_micro_batches / int(tokens_n.sum())).astype(np.int64)
    return np.concatenate([[0], np.cumsum(np.diff(parts_n) > 0)]).astype(np.int64)


def _fits(shapes: Shapes, cut_n: Int64, max_tokens: int) -> bool:
    """True where no micro-batch of several comparisons, whose widths fall, exceeds the budget."""
    firsts = np.searchsorted(cut_n, np.arange(int(cut_n[-1]) + 1))
    tokens = np.bincount(cut_n, weights=shapes.rows_N) * shapes.width_N[firsts]
    return bool(np.all((tokens <= max_tokens) | (np.bincount(cut_n) <= 1)))
