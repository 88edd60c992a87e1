"""Dropout on what the head reads: in training alone, seeded, alike in every forward."""

from __future__ import annotations

import pytest
import torch

from rmray.data.batch import FlatBatch
from rmray.models.backbone import RewardBackbone
from rmray.models.heads import find_head
from tests.models.architectures import ARCHITECTURES, VOCAB, build
from tests.models.batches import random_batch

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}


def train_scores(backbone: RewardBackbone, *, pooling: str = "last", seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return backbone.train()(random_batch(VOCAB, pooling=pooling))


def backbone(dropout: float, name: str = "qwen3", **options: object) -> RewardBackbone:
    return RewardBackbone(build(BY_NAME[name]), head_dropout=dropout, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_it_is_drawn_by_the_seed_and_alike_for_packed_and_padded(pooling: str) -> None:
    packed, padded = (backbone(0.5, packed=p, pooling=pooling) for p in (True, False))
    one = train_scores(packed, pooling=pooling)
    assert torch.equal(train_scores(packed, pooling=pooling), one)
    assert not torch.allclose(train_scores(packed, pooling=pooling, seed=1), one, atol=0.01)
    torch.testing.assert_close(train_scores(padded, pooling=pooling), one, atol=1e-5, rtol=0)


def head_input(backbone: RewardBackbone, batch: FlatBatch) -> torch.Tensor:
    """The hidden states that the head reads in one forward."""
    seen: list[torch.Tensor] = []
    hook = find_head(backbone.model)[1].register_forward_hook(lambda head, args, output: seen.append(args[0]))
    with torch.no_grad():
        backbone(batch)
    hook.remove()
    return seen[-1]


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_it_drops_its_share_scales_the_rest_and_is_off_outside_training(name: str) -> None:
    pooling = "first" if name == "bert" else "last"
    with_it, without = backbone(0.25, name, pooling=pooling), backbone(0.0, name, pooling=pooling)
    batch = random_batch(VOCAB, pooling=pooling)
    whole = head_input(without.train(), batch)
    dropped = head_input(with_it.train(), batch)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    share = 1 - float(kept.float().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / kept.numel()) ** 0.5
    assert torch.equal(head_input(with_it.eval(), batch), whole)


def test_none_is_the_forward_without_bit_for_bit() -> None:
    assert torch.equal(train_scores(backbone(0.0)), train_scores(RewardBackbone(build(BY_NAME["qwen3"]))))
    torch.manual_seed(0)
    train_scores(backbone(0.0))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)  # no random number is taken
