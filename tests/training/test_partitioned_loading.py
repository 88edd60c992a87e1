"""At stage 3 no process holds the whole model: weights are cut up while they are loaded, and the head is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rmray.models.backbone import RewardBackbone
from rmray.models.base import initial_head_weight, load_reward_model
from rmray.training.engine import DeepSpeedEngine, EngineSettings
from tests.spawn import run_ranks


def load_partitioned(rank: int, world_size: int, base: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def load(gather: Any) -> RewardBackbone:
        model = load_reward_model(base, dtype=torch.float32, pad_id=0, seed=5, device="cpu", gather=gather)
        seen["whole"] = [name for name, p in model.named_parameters() if p.numel()]
        seen["held"] = sum(p.ds_tensor.numel() for p in model.parameters())
        seen["total"] = sum(p.ds_numel for p in model.parameters())
        return RewardBackbone(model)

    engine = DeepSpeedEngine(load, EngineSettings(zero_stage=3))
    return seen | {"head": dict(engine.weights())["score.weight"].tolist()}


def test_each_rank_holds_its_part_from_the_start(tiny_base: Path) -> None:
    answers = run_ranks(load_partitioned, 2, str(tiny_base), timeout_s=200)
    for seen in answers:
        assert seen["whole"] == []
        assert seen["held"] <= 0.52 * seen["total"]
    want = initial_head_weight((1, 32), 5).tolist()
    assert answers[0]["head"] == answers[1]["head"] == want
