"""What the sharded engine holds, sends and hands over: frozen parameters, bfloat16, one whole tensor at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from rmray.data.batch import FlatBatch
from rmray.training.engine import DeepSpeedEngine, EngineSettings, TorchEngine
from tests.spawn import run_ranks
from tests.training.toy_runs import (
    STEPS,
    TOY_SETTINGS,
    State,
    check_close,
    give_weights,
    load_toy,
    run_steps,
    same_state,
    snapshot,
)
from tests.training.toys import ToyBackbone

SAVED = 3
FROZEN, UNUSED = "0.weight", "unused"


class PartlyTrained(ToyBackbone):
    """The embedding is frozen, as under LoRA; one trained parameter takes no part in the forward."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.model.get_parameter(FROZEN).requires_grad_(False)
        self.model.register_parameter(UNUSED, nn.Parameter(torch.tensor([[0.5, 1.0, 2.0]])))


def train_partly(rank: int, world_size: int, stages: tuple[int, ...], saved: State | None) -> list[dict[str, Any]]:
    """Steps up to SAVED of a new run, or from there on of a saved one, at each of some stages."""
    return [train_partly_at(stage, saved) for stage in stages]


def train_partly_at(stage: int, saved: State | None) -> dict[str, Any]:
    settings = EngineSettings(zero_stage=stage, **TOY_SETTINGS)
    if saved is None:
        engine = DeepSpeedEngine(lambda gather: PartlyTrained(), settings)
        return {"results": run_steps(engine, range(SAVED)), "state": snapshot(engine)}
    engine = DeepSpeedEngine(lambda gather: give_weights(PartlyTrained(seed=1), saved), settings)
    engine.load_moments(lambda name: torch.from_numpy(saved[name]), SAVED)
    loaded = snapshot(engine)
    results = run_steps(engine, range(SAVED, STEPS))
    return {
        "loaded": same_state(loaded, saved),
        "results": results,
        "state": snapshot(engine),
        "trained": engine.trained_names(),
    }


@pytest.fixture(scope="module")
def partly_saved() -> dict[str, Any]:
    """Half a run on two ranks at stage 3."""
    half: dict[str, Any] = run_ranks(train_partly, 2, (3,), None)[0][0]
    return half


@pytest.mark.parametrize(("world_size", "stages"), [(1, (0, 3)), (2, (1, 3)), (3, (0, 1, 2, 3))])
def test_frozen_parameters_pass_from_stage_3_to_any_ranks_and_stage(
    world_size: int, stages: tuple[int, ...], partly_saved: dict[str, Any]
) -> None:
    bare = TorchEngine(lambda gather: PartlyTrained(), EngineSettings(**TOY_SETTINGS))
    frozen = snapshot(bare)[FROZEN]
    want = run_steps(bare, range(STEPS))
    assert partly_saved["results"] == [pytest.approx(w, rel=1e-5, abs=1e-7) for w in want[:SAVED]]
    for run in run_ranks(train_partly, world_size, stages, partly_saved["state"])[world_size - 1]:
        assert run["loaded"]
        assert run["results"] == [pytest.approx(w, rel=1e-5, abs=1e-7) for w in want[SAVED:]]
        check_close(run["state"], snapshot(bare))
        assert (run["state"][FROZEN] == frozen).all()
        assert FROZEN not in run["trained"]
        assert f"{FROZEN}.exp_avg" not in run["state"]


def test_a_parameter_that_no_forward_uses_decays_and_is_saved_like_the_others() -> None:
    engine = TorchEngine(lambda gather: PartlyTrained(), EngineSettings(**TOY_SETTINGS))
    run_steps(engine, range(1))
    state = snapshot(engine)
    assert state[UNUSED].tolist() == [pytest.approx([w * (1 - 0.1 * 0.1) for w in (0.5, 1.0, 2.0)])]
    assert not state[f"{UNUSED}.exp_avg"].any()


def train_in_bfloat16(rank: int, world_size: int) -> list[list[dict[str, Any]]]:
    settings = [EngineSettings(zero_stage=stage, bfloat16=True, **TOY_SETTINGS) for stage in (0, 1, 2, 3)]
    return [run_steps(DeepSpeedEngine(load_toy, s), range(STEPS)) for s in settings]


def test_gradients_of_a_bfloat16_forward_are_reduced_in_float32() -> None:
    # One pair a micro-batch: the forwards are the same on any number of ranks, so all that differs is the reduction.
    # In bfloat16 it would move the norms by 5e-4.
    want = run_steps(TorchEngine(load_toy, EngineSettings(bfloat16=True, **TOY_SETTINGS)), range(STEPS))
    for results in run_ranks(train_in_bfloat16, 2)[0]:
        assert results == [pytest.approx(w, rel=1e-6, abs=1e-6) for w in want]
    full = run_steps(TorchEngine(load_toy, EngineSettings(**TOY_SETTINGS)), range(STEPS))
    assert all(abs(w["norm"] / f["norm"] - 1) > 1e-5 for w, f in zip(want, full, strict=True))


WIDTH = 400  # so wide that DeepSpeed cuts its matrices up and keeps none whole for being small


class WideBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Embedding(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        )
        self.model.get_parameter("1.weight").requires_grad_(False)

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        scores_S: torch.Tensor = self.model(batch.token_ids_T).squeeze(-1)
        return scores_S


def watch_gathering(rank: int, world_size: int) -> dict[str, int]:
    """The most elements that are whole on this rank at any time while weights and moments are handed over."""
    engine = DeepSpeedEngine(lambda gather: WideBackbone(), EngineSettings(zero_stage=3))
    run_steps(engine, range(1))
    given: list[tuple[StorageWeakRef, int]] = []
    most = total = 0
    for tensors in (engine.weights(), engine.moments()):
        for _, tensor in tensors:
            given.append((StorageWeakRef(tensor.untyped_storage()), tensor.numel()))
            handed_over = sum(size for storage, size in given if not storage.expired())
            most = max(most, handed_over + sum(p.numel() for p in engine.backbone.parameters()))
            total += tensor.numel()
    return {"most": most, "total": total}


def test_weights_and_moments_are_whole_one_at_a_time() -> None:
    for seen in run_ranks(watch_gathering, 2):
        assert seen["total"] > 7 * WIDTH**2
        # One matrix in the consumer's hands, the next one on its way, and what is too small to be cut up.
        assert seen["most"] < 2.1 * WIDTH**2
