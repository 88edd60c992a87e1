"""Turn a plan into tensors: groups of token ids become one flat batch. Used by training, evaluation and serving.

Legend: T tokens of the flat batch, S scores (one per score position), R read-out tokens, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rmray.data.group import TokenGroup
from rmray.data.order import Int64


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one group lies in the flat batch: the shared prefix, then its completions one after the other.

    prefix_start, prefix_len: in tokens of the flat batch. suffixes: K pairs (start, length).
    """

    prefix_start: int
    prefix_len: int
    suffixes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """T tokens laid out [prefix, suffix 1, ..., suffix K] group after group, and where scores are read.

    token_ids_T, positions_T: int64; the positions of every suffix go on from its own prefix.
    readout_tokens_R: indices into T. readout_paths_R: the path that each is read for, ascending. readout_scores_R: the
    score each of them counts towards, ascending; a score is the mean over its read-out tokens (one token for `last`).
    num_scores: S, in the order group after group, completion after completion, token after token.
    """

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    segments: tuple[Segment, ...]
    readout_tokens_R: torch.Tensor
    readout_paths_R: torch.Tensor
    readout_scores_R: torch.Tensor
    num_scores: int

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids_T.numel())

    def to(self, device: torch.device | str) -> FlatBatch:
        """The same batch with its tensors on `device`."""
        return self._with_each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> FlatBatch:
        """The same batch in page-locked memory, from which a copy to a GPU does not make the CPU wait."""
        return self._with_each(torch.Tensor.pin_memory)

    def _with_each(self, move: Callable[[torch.Tensor], torch.Tensor]) -> FlatBatch:
        return FlatBatch(
            move(self.token_ids_T),
            move(self.positions_T),
            self.segments,
            move(self.readout_tokens_R),
            move(self.readout_paths_R),
            move(self.readout_scores_R),
            self.num_scores,
        )


TOKEN_READOUTS = ("tokens", "steps")
"""Read-outs that give a score for each token they read, and so several scores a completion."""


def build_batch(groups: Sequence[TokenGroup], *, pooling: str = "last") -> FlatBatch:
    """Lay groups out flat. An empty sequence of groups gives a batch of no token and no score (a rank with nothing to
    do).

    pooling: one score a path from its last token (`last`), its completion's tokens (`mean`) or its first token
    (`first`); or a score for each token of its completion (`tokens`) or each token that ends a step (`steps`).
    """
    token_ids: list[npt.NDArray[Any]] = []
    positions: list[Int64] = []
    segments: list[Segment] = []
    readout: list[Int64] = []
    num_readouts: list[int] = []
    start = 0
    for group in groups:
        prefix_start, prefix_len = start, len(group.prefix)
        token_ids.append(group.prefix)
        positions.append(np.arange(prefix_len))
        start += prefix_len
        suffixes = []
        for k, suffix in enumerate(group.suffixes):
            length = len(suffix)
            token_ids.append(suffix)
            positions.append(np.arange(prefix_len, prefix_len + length))
            suffixes.append((start, length))
            places = read_places(group, k, pooling)
            # A completion may begin inside the shared prefix, where the K paths begin alike.
            readout.append(np.where(places < prefix_len, prefix_start, start - prefix_len) + places)
            num_readouts.append(len(places))
            start += length
        segments.append(Segment(prefix_start, prefix_len, tuple(suffixes)))
    paths_R = torch.from_numpy(np.repeat(np.arange(len(num_readouts)), num_readouts))
    by_token = pooling in TOKEN_READOUTS
    num_scores = len(paths_R) if by_token else len(num_readouts)
    return FlatBatch(
        _join(token_ids),
        _join(positions),
        tuple(segments),
        _join(readout),
        paths_R,
        torch.arange(num_scores) if by_token else paths_R,
        num_scores,
    )


def read_places(group: TokenGroup, path: int, pooling: str) -> Int64:
    """The places in one path whose tokens are read, ascending."""
    length = len(group.prefix) + len(group.suffixes[path])
    if pooling == "last":
        return np.array([length - 1])
    if pooling == "first":
        return np.array([0])
    if pooling in ("mean", "tokens"):
        return np.arange(group.prompt_lens[path], length)
    if pooling == "steps":
        return np.array(group.step_ends[path], dtype=np.int64)
    raise ValueError(f"unknown pooling {pooling!r}")


def num_read(group: TokenGroup, pooling: str) -> list[int]:
    """Scores that each path of a group has in a batch."""
    if pooling not in TOKEN_READOUTS:
        return [1] * group.num_completions
    return [len(read_places(group, k, pooling)) for k in range(group.num_completions)]


def _join(parts: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
    """All parts one after the other, int64."""
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *parts], dtype=np.int64))
