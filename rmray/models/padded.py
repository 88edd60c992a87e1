"""A flat batch as plain transformers takes it: one padded row a path. Used by `backbone` and `probe`."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rmray.data.batch import FlatBatch, build_batch
from rmray.data.group import TokenGroup


def padded_inputs(batch: FlatBatch, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids [N, L] padded on the right and attention mask [N, L] of the batch's paths, prefixes repeated."""
    rows = []
    for segment in batch.segments:
        prefix = batch.token_ids_T[segment.prefix_start : segment.prefix_start + segment.prefix_len]
        rows += [torch.cat([prefix, batch.token_ids_T[start : start + n]]) for start, n in segment.suffixes]
    input_ids_NL = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
    lengths_N = torch.tensor([len(row) for row in rows], device=input_ids_NL.device)
    mask_NL = torch.arange(input_ids_NL.shape[1], device=input_ids_NL.device) < lengths_N[:, None]
    return input_ids_NL, mask_NL.long()


def one_token_batch(token_id: int, device: torch.device) -> FlatBatch:
    """The smallest forward there is, run where a batch is empty."""
    return build_batch([TokenGroup(np.zeros(0, np.int32), (np.array([token_id], np.int32),), (0,))]).to(device)
