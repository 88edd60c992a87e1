"""Where parameters lie, and that what is frozen has no gradient and costs no backward pass."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from transformers import PreTrainedModel

from rmray.errors import ModelError
from rmray.models.backbone import RewardBackbone
from rmray.models.depth import depths, head_names
from rmray.models.freeze import freeze
from tests.models.architectures import ARCHITECTURES, VOCAB, build
from tests.models.batches import random_batch

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}


def model_of(name: str = "qwen3") -> PreTrainedModel:
    return build(BY_NAME[name])


@pytest.mark.parametrize(
    ("name", "embedding", "above"),
    [
        ("qwen3", {"model.embed_tokens.weight"}, {"model.norm.weight", "score.weight"}),
        (
            "gpt2",
            {"transformer.wte.weight", "transformer.wpe.weight"},
            {"transformer.ln_f.weight", "transformer.ln_f.bias", "score.weight"},
        ),
        ("qwen3_moe", {"model.embed_tokens.weight"}, {"model.norm.weight", "score.weight"}),
        (
            "bert",
            {
                "bert.embeddings.word_embeddings.weight",
                "bert.embeddings.position_embeddings.weight",
                "bert.embeddings.token_type_embeddings.weight",
                "bert.embeddings.LayerNorm.weight",
                "bert.embeddings.LayerNorm.bias",
            },
            {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"},
        ),
    ],
)
def test_each_parameter_lies_in_the_embedding_in_a_layer_or_above(
    name: str, embedding: set[str], above: set[str]
) -> None:
    model = model_of(name)
    depth_of, num_layers = depths(model)
    assert num_layers == 2
    assert depth_of.keys() == dict(model.named_parameters()).keys()
    assert {n for n, depth in depth_of.items() if depth == 0} == embedding
    assert {n for n, depth in depth_of.items() if depth == 3} == above
    assert all(f".{depth - 1}." in n for n, depth in depth_of.items() if 0 < depth < 3)


@pytest.mark.parametrize("what", [0, 1, 2, "backbone"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_what_is_trained_has_the_gradient_that_it_has_in_the_whole(
    what: Literal["backbone"] | int, recomputed: bool
) -> None:
    whole, part = RewardBackbone(model_of()).train(), RewardBackbone(model_of()).train()
    freeze(part.model, what)
    if recomputed:
        part.model.gradient_checkpointing_enable({"use_reentrant": False})
    for backbone in (whole, part):
        backbone(random_batch(VOCAB)).pow(2).sum().backward()
    wanted = dict(whole.model.named_parameters())
    depth_of, _ = depths(part.model)
    for name, parameter in part.model.named_parameters():
        kept = name in head_names(part.model) if what == "backbone" else depth_of[name] > what
        assert parameter.requires_grad == (parameter.grad is not None) == kept, name
        if kept:
            torch.testing.assert_close(parameter.grad, wanted[name].grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("what", "recorded"), [(0, [True, True]), (1, [False, True]), ("backbone", [False, False])])
def test_nothing_is_recorded_below_the_first_layer_that_is_trained(
    what: Literal["backbone"] | int, recorded: list[bool]
) -> None:
    backbone = RewardBackbone(model_of()).train()
    freeze(backbone.model, what)
    seen: list[bool] = []
    for layer in backbone.model.model.layers:
        layer.register_forward_hook(lambda layer, args, output: seen.append(output.requires_grad))
    assert backbone(random_batch(VOCAB)).requires_grad
    assert seen == recorded


def test_the_backbone_is_all_but_the_head_and_the_pooler_that_no_base_brings() -> None:
    model = model_of("bert")
    freeze(model, "backbone")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == head_names(model)
    assert head_names(model) == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }


def test_more_layers_than_there_are_cannot_be_frozen() -> None:
    with pytest.raises(ModelError, match=r"model.freeze is 3, and the model has 2 layers"):
        freeze(model_of(), 3)
