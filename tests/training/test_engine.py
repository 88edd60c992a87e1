"""Every ZeRO stage on two ranks does what bare torch does on one. Both run the same planned pairs, unevenly split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

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

STAGES = (0, 1, 2, 3)
POISONED = 3  # its gradient is not finite
RESUMED = 2


def train_at_every_stage(rank: int, world_size: int) -> dict[int, dict[str, Any]]:
    """In one pair of processes: a run, a run with a poisoned step, and a run resumed in the middle, at each stage."""
    torch.manual_seed(rank)
    return {stage: train_at_stage(stage) for stage in STAGES}


def train_at_stage(stage: int) -> dict[str, Any]:
    settings = EngineSettings(zero_stage=stage, **TOY_SETTINGS)
    whole = DeepSpeedEngine(load_toy, settings)
    empty = sum(1 for _ in whole.moments())
    first = run_steps(whole, range(RESUMED))
    middle = snapshot(whole)
    results = [*first, *run_steps(whole, range(RESUMED, STEPS))]

    resumed = DeepSpeedEngine(lambda gather: backbone_of(middle), settings)
    resumed.load_moments(lambda name: torch.from_numpy(middle[name]), RESUMED)
    again = run_steps(resumed, range(RESUMED, STEPS))

    poisoned = DeepSpeedEngine(load_toy, settings)
    run_steps(poisoned, range(POISONED))
    before = snapshot(poisoned)
    skipped = run_steps(poisoned, range(POISONED, POISONED + 1), poisoned=POISONED)[0]
    after = snapshot(poisoned)
    rest = run_steps(poisoned, range(POISONED, STEPS))  # the step again, healthy: as if nothing had happened
    return {
        "results": results,
        "state": snapshot(whole),
        "updates": whole.updates,
        "sizes": whole.tensor_sizes(),
        "empty": empty,
        "resumed": again,
        "resumed_state": snapshot(resumed),
        "skipped": skipped,
        "untouched": all(np.array_equal(before[n], after[n]) for n in before),
        "rest": rest,
        "rest_state": snapshot(poisoned),
    }


def backbone_of(state: State) -> ToyBackbone:
    return give_weights(ToyBackbone(seed=1), state)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The same steps in bare torch, alone."""
    engine = TorchEngine(load_toy, EngineSettings(**TOY_SETTINGS))
    return {"results": run_steps(engine, range(STEPS)), "state": snapshot(engine), "sizes": engine.tensor_sizes()}


@pytest.fixture(scope="module")
def at_stage() -> Callable[[int], dict[str, Any]]:
    answers = run_ranks(train_at_every_stage, 2, timeout_s=400)
    for stage in STAGES:  # both ranks see the same whole tensors and the same outcomes
        assert answers[0][stage]["results"] == answers[1][stage]["results"]
        assert same_state(answers[0][stage]["state"], answers[1][stage]["state"])
    return lambda stage: answers[0][stage]


@pytest.mark.parametrize("stage", STAGES)
def test_two_uneven_ranks_equal_bare_torch(stage: int, at_stage: Any, reference: dict[str, Any]) -> None:
    run = at_stage(stage)
    for got, want in zip(run["results"], reference["results"], strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-7)
    check_close(run["state"], reference["state"])
    assert run["updates"] == STEPS
    assert run["sizes"] == reference["sizes"]
    assert run["empty"] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_was_at_work(stage: int, at_stage: Any) -> None:
    assert max(r["norm"] for r in at_stage(stage)["results"]) > TOY_SETTINGS["max_grad_norm"]


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_is_bitwise_the_run_left_alone(stage: int, at_stage: Any) -> None:
    run = at_stage(stage)
    assert run["resumed"] == run["results"][RESUMED:]
    assert same_state(run["resumed_state"], run["state"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_non_finite_gradient_on_one_rank_changes_nothing_on_any(stage: int, at_stage: Any) -> None:
    run = at_stage(stage)
    assert not run["skipped"]["applied"]
    assert not np.isfinite(run["skipped"]["norm"])
    assert run["untouched"]
    assert run["rest"] == run["results"][POISONED:]
    assert same_state(run["rest_state"], run["state"])


def test_bare_torch_skips_a_non_finite_gradient() -> None:
    engine = TorchEngine(load_toy, EngineSettings(**TOY_SETTINGS))
    run_steps(engine, range(2))
    before = snapshot(engine)
    assert not run_steps(engine, range(2, 3), poisoned=2)[0]["applied"]
    assert same_state(snapshot(engine), before)
    assert engine.updates == 2


def test_bare_torch_resumes_bitwise() -> None:
    engine = TorchEngine(load_toy, EngineSettings(**TOY_SETTINGS))
    run_steps(engine, range(2))
    middle = snapshot(engine)
    resumed = TorchEngine(lambda gather: backbone_of(middle), EngineSettings(**TOY_SETTINGS))
    resumed.load_moments(lambda name: torch.from_numpy(middle[name]), 2)
    assert run_steps(engine, range(2, STEPS)) == run_steps(resumed, range(2, STEPS))
    assert same_state(snapshot(engine), snapshot(resumed))


def test_weights_of_a_mapped_file_are_moved_to_aligned_memory() -> None:
    backbone = ToyBackbone()
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    for parameter in backbone.parameters():
        parameter.data = torch.cat([torch.zeros(2), parameter.detach().flatten()])[2:].view_as(parameter)
    assert all(parameter.data_ptr() % 64 for parameter in backbone.parameters())
    engine = TorchEngine(lambda gather: backbone, EngineSettings())
    assert not any(parameter.data_ptr() % 64 for parameter in engine.backbone.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in engine.backbone.named_parameters())


def test_biases_do_not_decay() -> None:
    engine = TorchEngine(load_toy, EngineSettings(weight_decay=0.5))
    groups = {g["weight_decay"]: sum(p.numel() for p in g["params"]) for g in engine._optimizer.param_groups}
    assert groups == {0.5: VOCAB_WEIGHTS, 0.0: 6}


VOCAB_WEIGHTS = 11 * 3 + 3 * 5 + 5
