"""Every architecture is exact in the packed forward, or announced and padded. Nothing between."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch

from rmray.models.backbone import RewardBackbone, check_packed
from rmray.models.guards import natural_pooling
from tests.models.architectures import ARCHITECTURES, VOCAB, Architecture, build
from tests.models.batches import gradient_distance, random_batch


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_packed_equals_padded_or_is_announced(architecture: Architecture, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rmray")
    model = build(architecture)
    pooling = natural_pooling(model)
    batch = random_batch(VOCAB, pooling=pooling)
    reference = RewardBackbone(copy.deepcopy(model), pooling=pooling, packed=False)
    backbone = RewardBackbone(model, pooling=pooling)
    check_packed(backbone)

    assert backbone.packed == (not architecture.refused), backbone.packed_reason
    assert architecture.refused in backbone.packed_reason
    announced = [r for r in caplog.records if r.name.startswith("rmray")]
    assert len(announced) == bool(architecture.refused)

    scores_S, expected_S = backbone(batch), reference(batch)
    torch.testing.assert_close(scores_S, expected_S, atol=1e-5, rtol=1e-5)
    scores_S.sigmoid().sum().backward()
    expected_S.sigmoid().sum().backward()
    assert gradient_distance(backbone, reference) <= 1e-5
    assert float(expected_S.detach().std()) > 0.01


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if not a.refused], ids=lambda a: a.name)
def test_first_token_of_the_prompt_reaches_every_score(architecture: Architecture) -> None:
    """Attention must matter in the table above, or equality there shows nothing."""
    backbone = RewardBackbone(build(architecture))
    batch = random_batch(VOCAB)
    token_ids_T = batch.token_ids_T.clone()
    token_ids_T[0] = 3 + (token_ids_T[0] - 2) % (VOCAB - 3)
    other = replace(batch, token_ids_T=token_ids_T)
    with torch.no_grad():
        moved_S = (backbone(batch) - backbone(other)).abs()
    assert moved_S[:3].min() > 1e-3
    assert moved_S[3:].max() <= 1e-5
