"""Which tokens of a flat batch attend to which, in the form that each kernel wants, made once a batch. No attention.

Legend: T tokens of the flat batch, N sequences (every prefix and every completion is one), L tokens of the longest
sequence of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from rmray.data.batch import Segment

ALONE_FROM = 256
"""Sequences this long are computed one by one, in place; shorter ones side by side, to save calls."""
MAX_FILLING = 1.25
"""Sequences share a run where the longest is at most this much longer than the shortest."""

BLOCK = 128
"""Tokens of FlexAttention's blocks, its own default."""


@dataclass(frozen=True, slots=True)
class Alone:
    """One sequence that attends to itself."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class SideBySide:
    """N sequences of like length that attend each to itself, in one call of width L (`length`).

    places_NL: for each place of the N x L block the token that fills it; a filler repeats its sequence's last token,
    right of all real ones: no real query sees it, and what it sees itself is bounded by the logsumexp that goes with
    it, so that its zero gradient stays zero. real_M: the places that are real tokens, M of them; tokens_M:
    those tokens.
    """

    num_sequences: int
    length: int
    places_NL: torch.Tensor
    real_M: torch.Tensor
    tokens_M: torch.Tensor


@dataclass(frozen=True, slots=True)
class Cross:
    """The completions of one group, [middle, end), all attend to the whole of their prefix, [start, middle)."""

    start: int
    middle: int
    end: int


@dataclass(frozen=True, slots=True)
class Split:
    """Attention in two parts: every sequence on itself, and completions on their prefix."""

    runs: tuple[Alone | SideBySide, ...]
    crosses: tuple[Cross, ...]


@dataclass(frozen=True, slots=True)
class Paths:
    """Attention in one part: N sequences of queries, each with all the keys of its path before it.

    keys: for each key of the paths, one after the other, its token in the flat batch, or None where they are the batch
    itself. query_bounds, key_bounds: [N + 1] int32, where sequences begin; max_queries, max_keys: of one sequence.
    """

    keys: torch.Tensor | None
    query_bounds: torch.Tensor
    key_bounds: torch.Tensor
    max_queries: int
    max_keys: int


@dataclass(slots=True)
class Blocks:
    """Attention by a mask: of each token its sequence (own_T) and the one that is its group's prefix (prefix_T).

    num_keys_B, keys_BB: of each block of queries, how many blocks of keys it may see, and their numbers, at the front.
    made: what `flex` makes of it.
    """

    own_T: torch.Tensor
    prefix_T: torch.Tensor
    num_keys_B: torch.Tensor
    keys_BB: torch.Tensor
    made: Any = None


@dataclass(frozen=True)
class PackedCall:
    """A flat batch's attention. segments: of its groups, in order, from token 0 on; longest_path: in tokens.

    last_tokens_S: the tokens whose last states are read, each once, or None where that is not so.
    """

    segments: tuple[Segment, ...]
    num_tokens: int
    longest_path: int
    device: torch.device
    last_tokens_S: torch.Tensor | None = None

    @cached_property
    def split(self) -> Split:
        """For `split`."""
        pieces = list(sequences(self.segments))
        runs: list[Alone | SideBySide] = [Alone(*piece) for piece in pieces if piece[1] >= ALONE_FROM]
        for like in _of_like_length([piece for piece in pieces if piece[1] < ALONE_FROM]):
            runs.append(Alone(*like[0]) if len(like) == 1 else self._side_by_side(like))
        crosses = []
        for segment in self.segments:
            if segment.prefix_len:
                last_start, last_length = segment.suffixes[-1]
                middle = segment.prefix_start + segment.prefix_len
                crosses.append(Cross(segment.prefix_start, middle, last_start + last_length))
        return Split(tuple(runs), tuple(crosses))

    def _side_by_side(self, pieces: Sequence[tuple[int, int]]) -> SideBySide:
        starts_N, lengths_N = np.array(pieces).T
        longest = int(lengths_N.max())
        offsets_L = np.arange(longest)
        is_real_NL = offsets_L < lengths_N[:, None]
        places_NL = (starts_N[:, None] + np.minimum(offsets_L, lengths_N[:, None] - 1)).ravel()
        real_M = np.flatnonzero(is_real_NL)
        return SideBySide(
            len(pieces), longest, self._tensor(places_NL), self._tensor(real_M), self._tensor(places_NL[real_M])
        )

    @cached_property
    def paths(self) -> Paths:
        """For `varlen`."""
        keys, queries, lengths = [], [0], [0]
        for segment in self.segments:
            prefix = np.arange(segment.prefix_start, segment.prefix_start + segment.prefix_len)
            own = [np.arange(start, start + length) for start, length in segment.suffixes]
            for tokens, path in [(prefix, prefix), *((o, np.concatenate([prefix, o])) for o in own)]:
                if len(tokens):
                    keys.append(path)
                    queries.append(len(tokens))
                    lengths.append(len(path))
        all_keys = np.concatenate(keys)
        return Paths(
            None if len(all_keys) == self.num_tokens else self._tensor(all_keys),
            self._tensor(np.cumsum(queries)).int(),
            self._tensor(np.cumsum(lengths)).int(),
            max(queries),
            max(lengths),
        )

    @cached_property
    def blocks(self) -> Blocks:
        """For `flex`."""
        own_T, prefix_T = np.zeros(self.num_tokens, np.int32), np.zeros(self.num_tokens, np.int32)
        num_blocks = -(-self.num_tokens // BLOCK)
        seen_BB = np.zeros((num_blocks, num_blocks), dtype=bool)
        number = 0
        for segment in self.segments:
            prefix, number = number, number + 1
            pieces = [(segment.prefix_start, segment.prefix_len, prefix)]
            for start, length in segment.suffixes:
                pieces.append((start, length, number))
                number += 1
            for start, length, own in pieces:
                tokens, queries = slice(start, start + length), _blocks_of(start, length)
                own_T[tokens], prefix_T[tokens] = own, prefix
                seen_BB[queries, queries] = True
                seen_BB[queries, _blocks_of(segment.prefix_start, segment.prefix_len)] = True
        seen_BB &= np.tri(num_blocks, dtype=bool)
        # FlexAttention wants the seen blocks' numbers at the front of each row.
        keys_BB = np.argsort(~seen_BB, axis=1, kind="stable").astype(np.int32)
        num_keys_B = seen_BB.sum(axis=1).astype(np.int32)
        return Blocks(*(self._tensor(values) for values in (own_T, prefix_T, num_keys_B, keys_BB)))

    def _tensor(self, values: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)


def _blocks_of(start: int, length: int) -> slice:
    return slice(start // BLOCK, -(-(start + length) // BLOCK) if length else start // BLOCK)


def longest_path(segments: Sequence[Segment]) -> int:
    """Length in tokens of the longest prompt + completion; 0 for none."""
    return max((s.prefix_len + length for s in segments for _, length in s.suffixes), default=0)


def plan_attention(
    segments: Sequence[Segment], device: torch.device | str, last_tokens_S: torch.Tensor | None = None
) -> PackedCall:
    """Check how a batch is laid out; index tensors are made on `device` when a kernel first asks for them.

    Raises ValueError where the segments do not lie one after the other from token 0 on.
    """
    end = 0
    for segment in segments:
        if segment.prefix_start != end or not segment.suffixes:
            raise ValueError(f"the segment at token {segment.prefix_start} does not follow on token {end}")
        end += segment.prefix_len
        for start, length in segment.suffixes:
            if start != end or length < 1:
                raise ValueError(f"the completion at token {start} does not follow on token {end}")
            end += length
    return PackedCall(tuple(segments), end, longest_path(segments), torch.device(device), last_tokens_S)


def sequences(segments: Sequence[Segment]) -> Iterator[tuple[int, int]]:
    """Start and length of every prefix that has a token and of every completion."""
    for segment in segments:
        if segment.prefix_len:
            yield segment.prefix_start, segment.prefix_len
        yield from segment.suffixes


def _of_like_length(pieces: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The pieces (start, length) in lists whose lengths differ by no more than MAX_FILLING, longest first."""
    lists: list[list[tuple[int, int]]] = []
    for piece in sorted(pieces, key=lambda p: (-p[1], p[0])):
        if not lists or lists[-1][0][1] > MAX_FILLING * piece[1]:
            lists.append([])
        lists[-1].append(piece)
    return lists
