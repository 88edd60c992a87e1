"""Plan which rank computes which comparisons of a step, in which micro-batch. Pure; no tensors. Called by `chunks`.

Two aims: all ranks finish together (equal cost), and no forward exceeds the token budget. Every rank gets the same
number of micro-batches, because sharded optimizers run collectives in each; a rank that has less to do gets empty ones.
As ranks wait for each other at those too, the costs of micro-batch m on all ranks should be alike.

Legend: N comparisons of a step, M suffixes of all of them, K completions of one, R ranks, B micro-batches of a rank.
Where the forward shares prefixes, a comparison's computed tokens are its prefix once and its K suffixes; where it pads,
K rows as wide as the longest path.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmray.data.order import Int64

ATTENDED_PER_TOKEN = 6656
"""What `attended_per_token_of` gives for a hidden size of 1024 and feed-forward layers three times as wide."""
SPREADING_PAYS_FROM = 0.02  # of a step: time that ranks wait for each other inside it, when lengths are kept together


def attended_per_token_of(hidden: int, intermediate: int) -> int:
    """So many attended (query, key) pairs cost as much as all else that one token costs. Only the balance hangs on it.

    A layer with weights of 4 h^2 (attention) and 3 h i (a gated feed-forward) spends two operations on each of them for
    a token, and 4 h for a pair: 2 h + 1.5 i. A model of few layers and a large vocabulary is no other case: the
    embedding is looked up, and no logits are computed.
    """
    return 2 * hidden + 3 * intermediate // 2


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
    """Balance a step's comparisons over ranks by cost, then cut each rank's shares into micro-batches.

    max_micro_batch_tokens: computed tokens of one forward; a comparison that alone exceeds it gets a micro-batch of its
    own. Deterministic. Balancing is longest-processing-time-first (Graham 1969): at most 4/3 of the best possible.
    """
    cost_N = shapes.tokens * attended_per_token + shapes.attended_N
    rank_N = _balance(cost_N, world_size)
    # Like lengths side by side, longest first: padding wastes least, and what does not fit fails at once.
    order_N = np.lexsort((-shapes.tokens, -shapes.width_N, rank_N))
    bounds_R1 = np.searchsorted(rank_N[order_N], np.arange(world_size + 1))
    sizes_R = np.diff(bounds_R1)
    ranks_N = np.repeat(np.arange(world_size), sizes_R)
    shares = _Shares(shapes.take(order_N), cost_N[order_N], bounds_R1, sizes_R, ranks_N)
    cut_N, num_micro_batches = _cut(shares, max_micro_batch_tokens)
    again_N = np.lexsort((cut_N, shares.ranks_N))  # stable: inside a micro-batch lengths still fall
    order_N, cut_N = order_N[again_N], cut_N[again_N]
    micro_batch_N = np.empty_like(cut_N)
    micro_batch_N[order_N] = cut_N
    return StepPlan(order_N, bounds_R1, micro_batch_N, num_micro_batches)


def _balance(cost_N: Int64, world_size: int) -> Int64:
    """The rank of each comparison: dearest first, each to the rank that has least so far."""
    rank_N = np.zeros(len(cost_N), dtype=np.int64)
    if world_size == 1:
        return rank_N
    # Load and rank in one integer, the rank in its low bits: they compare like pairs, and several times faster.
    bits = (world_size - 1).bit_length()
    low_bits = (1 << bits) - 1
    loads = list(range(world_size))
    dearest_N = np.argsort(-cost_N, kind="stable")
    ranks = []
    for cost in cost_N[dearest_N].tolist():
        least = loads[0]
        ranks.append(least & low_bits)
        heapq.heapreplace(loads, least + (cost << bits))
    rank_N[dearest_N] = ranks
    return rank_N


@dataclass(frozen=True, slots=True)
class _Shares:
    """The comparisons rank after rank, widths and tokens falling in each. bounds_R1: where ranks begin; sizes_R: how
    many each has; ranks_N: whose each is."""

    shapes: Shapes
    cost_N: Int64
    bounds_R1: Int64
    sizes_R: Int64
    ranks_N: Int64

    def cells(self, cut_N: Int64, num_micro_batches: int) -> Int64:
        """A number for the micro-batch and rank of each comparison: rank x B + micro-batch."""
        return self.ranks_N * num_micro_batches + cut_N

    def makespan(self, cut_N: Int64, num_micro_batches: int) -> float:
        """Cost of the step where all ranks wait for each other after each micro-batch."""
        cells_N = self.cells(cut_N, num_micro_batches)
        num_cells = len(self.sizes_R) * num_micro_batches
        cost_RB = np.bincount(cells_N, weights=self.cost_N, minlength=num_cells).reshape(-1, num_micro_batches)
        return float(cost_RB.max(axis=0).sum())


def _cut(shares: _Shares, max_tokens: int) -> tuple[Int64, int]:
    """The micro-batch of each comparison, and how many each rank has: as few as the rank with most to do can have."""
    greedy_N = _cut_greedily(shares, max_tokens)
    num = int(greedy_N.max(initial=-1)) + 1
    if num < 2:
        return greedy_N, num
    cut_N = _where_it_fits(shares, _cut_evenly(shares, num), greedy_N, max_tokens)
    if len(shares.sizes_R) > 1 and int(shares.shapes.width_N.max()) == 1:
        # Nothing pads, so that long may stand beside short, and micro-batches can be made more alike than by cutting.
        spread_N = _where_it_fits(shares, _spread(shares, num), cut_N, max_tokens)
        saved = shares.makespan(cut_N, num) - shares.makespan(spread_N, num)
        if saved > SPREADING_PAYS_FROM * float(shares.cost_N.sum()) / len(shares.sizes_R):
            cut_N = spread_N
    return cut_N, num


def _cut_greedily(shares: _Shares, max_tokens: int) -> Int64:
    """In as few micro-batches as their order allows. One turn of the loop fills micro-batch b of all ranks."""
    rows_N, width_N = shares.shapes.rows_N, shares.shapes.width_N
    ends_N, stops_R = np.cumsum(rows_N), shares.bounds_R1[1:]
    begins_N = np.zeros(len(rows_N), dtype=np.int64)  # 1 where a micro-batch begins that is not its rank's first
    starts_R = shares.bounds_R1[:-1]
    while True:
        left = starts_R < stops_R
        starts_R, stops_R = starts_R[left], stops_R[left]
        if not len(starts_R):
            break
        max_ends_R = ends_N[starts_R] - rows_N[starts_R] + max_tokens // width_N[starts_R]
        starts_R = np.maximum(starts_R + 1, np.searchsorted(ends_N, max_ends_R, side="right"))
        begins_N[starts_R[starts_R < stops_R]] = 1
    return _count_up(shares, begins_N)


def _cut_evenly(shares: _Shares, num: int) -> Int64:
    """In `num` parts of about equal cost (fewer where there are fewer comparisons), so that ranks keep pace."""
    ends_N = np.concatenate([[0], np.cumsum(shares.cost_N)])
    before_R, after_R = ends_N[shares.bounds_R1[:-1]], ends_N[shares.bounds_R1[1:]]
    middles_N = ends_N[1:] - shares.cost_N / 2 - np.repeat(before_R, shares.sizes_R)
    parts_N = (middles_N * num / np.repeat(after_R - before_R, shares.sizes_R)).astype(np.int64)
    return _count_up(shares, np.concatenate([[0], np.diff(parts_N) > 0]).astype(np.int64))


def _count_up(shares: _Shares, begins_N: Int64) -> Int64:
    """Micro-batches counted from 0 in each rank. begins_N: 1 where the next one begins."""
    counts_N = np.cumsum(begins_N)
    firsts_R = shares.bounds_R1[:-1][shares.sizes_R > 0]
    return counts_N - np.repeat(counts_N[firsts_R], shares.sizes_R[shares.sizes_R > 0])


def _spread(shares: _Shares, num: int) -> Int64:
    """Each rank's comparisons, dearest first, each to the micro-batch that has least so far; the dearest micro-batch of
    every rank comes first. One turn of the loop places one comparison of each rank."""
    ranks_N = shares.ranks_N
    dearest_N = np.lexsort((-shares.cost_N, ranks_N))
    places_N = np.arange(len(ranks_N)) - np.repeat(shares.bounds_R1[:-1], shares.sizes_R)
    cost_Rn = np.zeros((len(shares.sizes_R), int(shares.sizes_R.max())), dtype=np.int64)
    cost_Rn[ranks_N, places_N] = shares.cost_N[dearest_N]
    chosen_Rn = np.zeros_like(cost_Rn)
    load_RB = np.zeros((len(shares.sizes_R), num), dtype=np.int64)
    rows_R = np.arange(len(shares.sizes_R))
    for place in range(cost_Rn.shape[1]):
        chosen_Rn[:, place] = chosen_R = load_RB.argmin(axis=1)
        load_RB[rows_R, chosen_R] += cost_Rn[:, place]
    order_RB = np.argsort(-load_RB, axis=1, kind="stable")
    number_RB = np.empty_like(order_RB)
    np.put_along_axis(number_RB, order_RB, np.broadcast_to(np.arange(num), order_RB.shape), axis=1)
    cut_N = np.empty(len(ranks_N), dtype=np.int64)
    cut_N[dearest_N] = number_RB[ranks_N, chosen_Rn[ranks_N, places_N]]
    return cut_N


def _where_it_fits(shares: _Shares, cut_N: Int64, otherwise_N: Int64, max_tokens: int) -> Int64:
    """`cut_N` for the ranks in which none of its micro-batches of several comparisons exceeds the budget."""
    num_ranks, num = len(shares.sizes_R), int(cut_N.max()) + 1
    cells_N = shares.cells(cut_N, num)
    rows_C = np.bincount(cells_N, weights=shares.shapes.rows_N, minlength=num_ranks * num)
    width_C = np.zeros(num_ranks * num, dtype=np.int64)
    np.maximum.at(width_C, cells_N, shares.shapes.width_N)
    over_C = np.logical_and(rows_C * width_C > max_tokens, np.bincount(cells_N, minlength=num_ranks * num) > 1)
    over_R = np.any(over_C.reshape(num_ranks, num), axis=1)
    return np.where(over_R[shares.ranks_N], otherwise_N, cut_N)
