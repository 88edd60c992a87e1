"""Token heads read the same through every kind of batch, and as plain transformers does. fp32: 1e-5."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, BertConfig, BertForTokenClassification

from rmray.data.batch import build_batch, read_places
from rmray.data.group import TokenGroup, group_paths
from rmray.errors import ModelError
from rmray.models.backbone import RewardBackbone, check_packed
from rmray.models.heads import HEADS
from tests.models.architectures import ARCHITECTURES, VOCAB, build
from tests.models.batches import gradient_distance, random_groups

TOLERANCE = 1e-5
READOUTS = ("tokens", "steps")
FAMILIES = [a for a in ARCHITECTURES if a.name in ("qwen3", "llama", "phi3", "gemma")]


def token_model(name: str, readout: str) -> Any:
    """An architecture of the table with a head on its tokens."""
    config = copy.deepcopy(build(next(a for a in ARCHITECTURES if a.name == name)).config)
    config.num_labels = HEADS[readout].num_labels
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config).eval()
    with torch.no_grad():
        model.score.weight.normal_()
        model.score.bias.normal_()
    return model


def solutions() -> list[TokenGroup]:
    """K solutions of a prompt that begin alike, so that a step may end within what they share."""
    rng = np.random.default_rng(3)

    def ids(n: int) -> list[int]:
        return [int(i) for i in rng.integers(3, VOCAB, n)]

    prompt, first = ids(6), ids(4)
    paths = [prompt + first + ids(5), prompt + first + ids(3), prompt + first + ids(4)]
    shared = group_paths(paths, [6, 6, 6], [(9, 14), (9, 12), (9, 11, 13)])
    [lone] = random_groups(VOCAB, ((4, (7,)),))
    return [shared, replace(lone, step_ends=((3, 10),))]


def alone(group: TokenGroup) -> list[TokenGroup]:
    return [
        group_paths([group.path(k).tolist()], [group.prompt_lens[k]], [group.step_ends[k]])
        for k in range(group.num_completions)
    ]


def logits_of(model: Any, group: TokenGroup) -> torch.Tensor:
    """What plain transformers gives at every token of a lone path."""
    logits_L: torch.Tensor = model(input_ids=torch.from_numpy(group.path(0).astype(np.int64))[None]).logits[0]
    return logits_L


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda a: a.name)
def test_shared_packed_padded_and_plain_transformers_agree(family: Any, readout: str) -> None:
    model = token_model(family.name, readout)
    backbone, padded = (RewardBackbone(copy.deepcopy(model), pooling=readout, packed=p) for p in ("auto", False))
    groups = solutions()
    assert any(end < len(groups[0].prefix) for ends in groups[0].step_ends for end in ends)
    one_by_one = [path for group in groups for path in alone(group)]
    with torch.no_grad():
        plain = [logits_of(model, group)[read_places(group, 0, readout)] for group in one_by_one]
        expected = torch.cat(plain) if readout == "steps" else torch.cat(plain).squeeze(-1)
        ways = [
            backbone(build_batch(groups, pooling=readout)),
            padded(build_batch(groups, pooling=readout)),
            torch.cat([backbone(build_batch([group], pooling=readout)) for group in one_by_one]),
        ]
    assert expected.shape == ((9, 3) if readout == "steps" else (9 + 7 + 8 + 9,))
    for scores in ways:
        torch.testing.assert_close(scores, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_of_packed_and_padded_agree(readout: str) -> None:
    model = token_model("qwen3", readout)
    backbone, padded = (RewardBackbone(copy.deepcopy(model), pooling=readout, packed=p) for p in ("auto", False))
    batch = build_batch(solutions(), pooling=readout)
    for each in (backbone, padded):
        each(batch).sigmoid().sum().backward()
    assert gradient_distance(backbone, padded) <= 1e-5


def test_the_probe_finds_a_head_that_plain_transformers_reads_otherwise() -> None:
    backbone = RewardBackbone(token_model("qwen3", "tokens"), pooling="tokens")
    assert check_packed(backbone)
    backbone.model.dropout.register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.raises(ModelError, match="reads another score"):
        check_packed(backbone)


def test_a_rank_with_nothing_to_do_has_a_gradient_of_zero() -> None:
    for readout, shape in (("tokens", (0,)), ("steps", (0, 3))):
        backbone = RewardBackbone(token_model("qwen3", readout), pooling=readout)
        scores = backbone(build_batch([], pooling=readout))
        assert scores.shape == shape
        scores.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in backbone.parameters())


def test_a_head_that_is_not_one_layer_over_the_last_state_is_refused() -> None:
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ModelError, match="cannot be judged one by one"):
        RewardBackbone(BertForTokenClassification(config), pooling="tokens")
