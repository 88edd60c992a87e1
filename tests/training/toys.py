"""A backbone of some sixty weights and steps of uneven micro-batches: what the engine suites train."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rmray.data.batch import FlatBatch, build_batch
from rmray.data.group import TokenGroup

VOCAB = 11


class ToyBackbone(nn.Module):
    """Each score is read from a token-wise network. Its sizes divide by no world size; one buffer is persistent."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(nn.Embedding(VOCAB, 3), nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 1))
        self.model.register_buffer("offset", torch.tensor([0.25]))
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        scores_T = self.model(batch.token_ids_T).squeeze(-1)
        picked = scores_T[batch.readout_tokens_R] + self.model.offset
        return torch.zeros(batch.num_scores).index_add(0, batch.readout_scores_R, picked.float())


def toy_step(step: int, num_pairs: int) -> list[FlatBatch]:
    """`num_pairs` pairs of one token a completion, the same whoever asks."""
    rng = np.random.default_rng(1000 + step)
    return [
        build_batch([TokenGroup(np.zeros(0, np.int32), (a, b), (0, 0))])
        for a, b in rng.integers(1, VOCAB, (num_pairs, 2, 1), dtype=np.int32)
    ]
