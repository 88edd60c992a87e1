"""Turn a plan into tensors: groups of token ids become one flat batch. Used by training, evaluation and serving.

Legend: T tokens of the flat batch, S scores (one per score position), R read-out tokens, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rmray.data.group import TokenGroup


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
    readout_tokens_R: indices into T. readout_scores_R: the score each of them counts towards, ascending; a score is
    the mean over its read-out tokens (one token for `last`).
    num_scores: S, in the order group after group, completion after completion.
    """

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    segments: tuple[Segment, ...]
    readout_tokens_R: torch.Tensor
    readout_scores_R: torch.Tensor
    num_scores: int

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids_T.numel())

    def to(self, device: torch.device | str) -> FlatBatch:
        """The same batch with its tensors on `device`."""
        return FlatBatch(
            self.token_ids_T.to(device, non_blocking=True),
            self.positions_T.to(device, non_blocking=True),
            self.segments,
            self.readout_tokens_R.to(device, non_blocking=True),
            self.readout_scores_R.to(device, non_blocking=True),
            self.num_scores,
        )

    def pin_memory(self) -> FlatBatch:
        """The same batch in page-locked memory, from which a copy to a GPU does not make the CPU wait."""
        return FlatBatch(
            self.token_ids_T.pin_memory(),
            self.positions_T.pin_memory(),
            self.segments,
            self.readout_tokens_R.pin_memory(),
            self.readout_scores_R.pin_memory(),
            self.num_scores,
        )


def build_batch(groups: Sequence[TokenGroup], *, pooling: str = "last") -> FlatBatch:
    """Lay groups out flat. pooling: `last` reads each path's last token, `mean` its completion's tokens, `first` its
    first token. An empty sequence of groups gives a batch of no token and no score (a rank with nothing to do)."""
    token_ids: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    segments: list[Segment] = []
    readout: list[torch.Tensor] = []
    score_of: list[torch.Tensor] = []
    start = score = 0
    for group in groups:
        prefix_start, prefix_len = start, len(group.prefix)
        token_ids.append(torch.from_numpy(group.prefix.astype("int64")))
        positions.append(torch.arange(prefix_len))
        start += prefix_len
        suffixes = []
        for suffix, prompt_len in zip(group.suffixes, group.prompt_lens, strict=True):
            length = len(suffix)
            token_ids.append(torch.from_numpy(suffix.astype("int64")))
            positions.append(torch.arange(prefix_len, prefix_len + length))
            suffixes.append((start, length))
            tokens = _readout_tokens(pooling, prefix_start, prefix_len, start, length, prompt_len)
            readout.append(tokens)
            score_of.append(torch.full((len(tokens),), score))
            start += length
            score += 1
        segments.append(Segment(prefix_start, prefix_len, tuple(suffixes)))
    empty = torch.zeros(0, dtype=torch.int64)
    return FlatBatch(
        torch.cat([empty, *token_ids]),
        torch.cat([empty, *positions]),
        tuple(segments),
        torch.cat([empty, *readout]),
        torch.cat([empty, *score_of]),
        score,
    )


def _readout_tokens(
    pooling: str, prefix_start: int, prefix_len: int, start: int, length: int, prompt_len: int
) -> torch.Tensor:
    """Flat indices of the tokens that one path's score is read from."""
    if pooling == "last":
        return torch.tensor([start + length - 1])
    if pooling == "first":
        return torch.tensor([prefix_start if prefix_len else start])
    if pooling == "mean":
        # The completion may begin inside the shared prefix, where the K paths begin alike.
        shared = torch.arange(prefix_start + min(prompt_len, prefix_len), prefix_start + prefix_len)
        own = torch.arange(start + max(0, prompt_len - prefix_len), start + length)
        return torch.cat([shared, own])
    raise ValueError(f"unknown pooling {pooling!r}")
