"""The probe on the real weights finds what no structure shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rmray.errors import ModelError
from rmray.models.backbone import RewardBackbone, check_packed
from rmray.models.probe import probe_batch, relative_distance
from tests.models.architectures import ARCHITECTURES, VOCAB, build
from tests.models.batches import random_batch

QWEN3 = next(a for a in ARCHITECTURES if a.name == "qwen3")


def mix_neighbours(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """What a short convolution does: each token takes a bit of the one before it in its row."""
    return output + 0.1 * torch.nn.functional.pad(output, (0, 0, 1, 0))[:, :-1]


def test_a_layer_that_mixes_tokens_falls_back() -> None:
    backbone = RewardBackbone(build(QWEN3))
    backbone.model.model.layers[0].mlp.register_forward_hook(mix_neighbours)
    assert backbone.packed
    assert not check_packed(backbone)
    assert "differ by" in backbone.packed_reason
    with torch.no_grad():
        reference = RewardBackbone(build(QWEN3), packed=False)
        reference.model.model.layers[0].mlp.register_forward_hook(mix_neighbours)
        batch = random_batch(VOCAB)
        torch.testing.assert_close(backbone(batch), reference(batch), atol=1e-6, rtol=0)


def test_a_model_that_breaks_on_a_flat_batch_falls_back() -> None:
    def one_row_only(module: torch.nn.Module, args: Any) -> None:
        if args[0].shape[0] == 1:
            raise IndexError("expected more than one row")

    backbone = RewardBackbone(build(QWEN3))
    backbone.model.model.layers[0].mlp.register_forward_pre_hook(one_row_only)
    assert not check_packed(backbone)
    assert "IndexError: expected more than one row" in backbone.packed_reason


def test_nothing_is_hidden_where_packed_was_asked_for() -> None:
    backbone = RewardBackbone(build(QWEN3), packed=True)
    backbone.model.model.layers[0].mlp.register_forward_hook(mix_neighbours)
    with pytest.raises(ModelError, match="differ by"):
        check_packed(backbone)


def test_a_score_that_is_read_in_another_way_is_an_error() -> None:
    model = build(QWEN3)

    def double(module: torch.nn.Module, args: Any, output: Any) -> Any:
        output.logits = output.logits * 2
        return output

    model.register_forward_hook(double)
    with pytest.raises(ModelError, match="another score"):
        check_packed(RewardBackbone(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_model_stays_packed_and_as_it_was(dtype: torch.dtype) -> None:
    backbone = RewardBackbone(build(QWEN3).to(dtype))
    backbone.train()
    assert check_packed(backbone)
    assert backbone.training
    assert backbone.model.training
    assert all(p.grad is None for p in backbone.parameters())


@pytest.mark.parametrize("longest", [1, 4, 40])
def test_the_probe_fits_the_window_and_holds_no_padding(longest: int) -> None:
    batch = probe_batch(7, pad_id=3, longest=longest)
    assert batch.num_scores == 6
    assert max(s.prefix_len + n for s in batch.segments for _, n in s.suffixes) <= max(2, longest)
    assert set(batch.token_ids_T.tolist()) <= {0, 1, 2, 4, 5, 6}


def test_relative_distance_of_rows() -> None:
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.5, 0.0]])
    assert relative_distance(a, b) == 1.0
    assert not relative_distance(a, b * float("nan")) <= 1.0
