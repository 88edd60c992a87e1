"""Adapters change no score before training, have the same gradients in any forward, and merge to the same scores."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from rmray.errors import ModelError
from rmray.models.backbone import RewardBackbone
from rmray.models.heads import set_head_float32
from rmray.models.lora import (
    CONFIG,
    WEIGHTS,
    add_adapters,
    auto_targets,
    load_adapter,
    num_adapter_parameters,
    remove_adapters,
    save_adapter,
)
from tests.models.architectures import ARCHITECTURES, VOCAB, build
from tests.models.batches import gradient_distance, random_batch

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
TOLERANCE = 1e-5


def adapted(name: str = "qwen3", *, zero: bool = False, **options: Any) -> PreTrainedModel:
    """A model with adapters; B is drawn unless `zero`, so that they matter."""
    model = build(BY_NAME[name])
    set_head_float32(model)
    add_adapters(model, **{"r": 4, "alpha": 8, "dropout": 0.0, "targets": "auto", "seed": 3, **options})
    if not zero:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if ".lora_B." in parameter_name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


def plain(name: str = "qwen3") -> PreTrainedModel:
    model = build(BY_NAME[name])
    set_head_float32(model)
    return model


def scores(model: PreTrainedModel, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return RewardBackbone(model, **options)(random_batch(VOCAB))


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("qwen3", ["self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"]),
        ("phi3", ["self_attn.o_proj", "self_attn.qkv_proj"]),
        ("gpt2", ["attn.c_attn", "attn.c_proj"]),  # not the feed-forward's c_proj
        ("gpt_neox", ["attention.dense", "attention.query_key_value"]),
        (
            "bert",
            ["attention.output.dense", "attention.self.key", "attention.self.query", "attention.self.value"],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_auto_is_the_attention_whatever_its_projections_are_called(name: str, targets: list[str]) -> None:
    model = plain(name)
    assert auto_targets(model) == targets
    planned = num_adapter_parameters(model, r=4, targets="auto")
    before = sum(p.numel() for p in model.parameters())
    add_adapters(model, r=4, alpha=8, dropout=0.0, targets="auto", seed=0)
    assert sum(p.numel() for p in model.parameters()) - before == planned > 0


@pytest.mark.parametrize("packed", [True, False])
def test_untrained_adapters_leave_every_score_bit_for_bit(packed: bool) -> None:
    assert torch.equal(scores(adapted(zero=True), packed=packed), scores(plain(), packed=packed))
    assert not torch.allclose(scores(adapted()), scores(plain()), atol=0.1)


def test_adapters_and_head_alone_are_trained() -> None:
    trained = {name for name, p in adapted().named_parameters() if p.requires_grad}
    adapters = {
        f"model.layers.{layer}.self_attn.{part}_proj.lora_{factor}.default.weight"
        for layer in (0, 1)
        for part in "qkvo"
        for factor in "AB"
    }
    assert trained == adapters | {"score.weight"}


def test_the_seed_decides_the_adapters_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, same, other = (dict(adapted(seed=seed).named_parameters()) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    name = "model.layers.1.self_attn.o_proj.lora_A.default.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@pytest.mark.parametrize("other", ["padded", "recomputed"])
def test_gradients_of_adapters_are_those_of_the_padded_and_of_the_recomputed_forward(other: str) -> None:
    batch = random_batch(VOCAB)
    ours, theirs = RewardBackbone(adapted(), packed=True), RewardBackbone(adapted(), packed=other != "padded")
    if other == "recomputed":
        theirs.model.gradient_checkpointing_enable({"use_reentrant": False})
    for backbone in (ours, theirs):
        backbone.train()
        backbone(batch).pow(2).sum().backward()
    assert all((p.grad is not None and p.grad.any()) == p.requires_grad for p in ours.parameters())
    assert gradient_distance(ours, theirs) < TOLERANCE


def test_a_model_that_is_not_in_training_has_no_dropout() -> None:
    assert torch.equal(scores(adapted(dropout=0.5)), scores(adapted()))


def test_adapters_have_dropout_and_nothing_else_has() -> None:
    backbone = RewardBackbone(adapted(dropout=0.5)).train()
    batch = random_batch(VOCAB)
    with torch.no_grad():
        assert not torch.equal(backbone(batch), backbone(batch))
        for name, parameter in backbone.named_parameters():
            if ".lora_B." in name:
                parameter.zero_()
        assert torch.equal(backbone(batch), backbone(batch))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_merged_it_is_a_plain_model_of_the_same_scores(name: str) -> None:
    model = adapted(name)
    want = scores(copy.deepcopy(model))
    remove_adapters(model, merge=True)
    assert model.state_dict().keys() == plain(name).state_dict().keys()
    torch.testing.assert_close(scores(model), want, atol=TOLERANCE, rtol=0)


def test_taken_off_it_is_the_base_again() -> None:
    model = adapted()
    remove_adapters(model, merge=False)
    assert torch.equal(scores(model), scores(plain()))


def test_a_saved_adapter_takes_its_head_and_its_scale_with_it(tmp_path: Path) -> None:
    model = adapted()
    with torch.no_grad():
        model.score.weight.mul_(2)
    save_adapter(model, tmp_path / "adapter", base="base")
    again = plain()
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(scores(again), scores(model))

    headless = {k: v for k, v in load_file(tmp_path / "adapter" / WEIGHTS).items() if "score" not in k}
    save_file(headless, tmp_path / "adapter" / WEIGHTS)
    with pytest.raises(ModelError, match="score"):
        load_adapter(plain(), tmp_path / "adapter")


def test_an_adapter_of_another_size_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path / "adapter", base="base")
    path = tmp_path / "adapter" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 3}))
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(plain(), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("target", "words"),
    [("q_porj", "the end of no module"), ("score", "score too"), ("embed_tokens", "embed_tokens too")],
)
def test_a_target_that_cannot_have_an_adapter_is_told_with_those_that_can(target: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as error:
        adapted(targets=["q_proj", target])
    assert "choose among down_proj, gate_proj, k_proj" in str(error.value)
