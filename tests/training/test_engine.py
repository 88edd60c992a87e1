"""Every ZeRO stage on two ranks does what bare torch does on one. Both run the same planned pairs, unevenly split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rmray.data.batch import FlatBatch
from rmray.training.engine import DeepSpeedEngine, Engine, EngineSettings, TorchEngine
from tests.spawn import run_ranks
from tests.training.toys import ToyBackbone, toy_step

STAGES = (0, 1, 2, 3)
STEPS = 6
POISONED = 3  # its gradient is not finite
RESUMED = 2
SETTINGS = {"weight_decay": 0.1, "max_grad_norm": 0.1}


def load_toy(gather: Any) -> ToyBackbone:
    return ToyBackbone()


def num_pairs(step: int) -> int:
    return (5, 1, 4, 3, 1, 2)[step]


def shares(step: int, rank: int, world_size: int) -> list[FlatBatch | None]:
    """This rank's pairs of a step, one a micro-batch; the last rank gets what is left, None where there is nothing."""
    pairs = toy_step(step, num_pairs(step))
    share = pairs if world_size == 1 else pairs[:1] if rank == 0 else pairs[1:]
    most = len(pairs) if world_size == 1 else max(1, len(pairs) - 1)
    return [*share, *[None] * (most - len(share))]


def run_steps(engine: Engine, steps: range, poisoned: int | None = None) -> list[dict[str, Any]]:
    """Losses, norms and outcomes of some steps, all with the exact mean over pairs of all ranks."""
    ranks = engine.ranks
    results = []
    for step in steps:
        batches = shares(step, ranks.rank, ranks.world_size)
        loss_sum = torch.zeros(())
        for i, batch in enumerate(batches):
            scores = engine.forward(batch or toy_step(0, 1)[0])
            loss = torch.nn.functional.softplus(scores[1] - scores[0]) * (batch is not None)
            if step == poisoned and ranks.rank == 0 and i == 0:
                loss = loss * float("nan")
            loss_sum += loss.detach()
            engine.backward(loss * ranks.world_size / num_pairs(step), last=i == len(batches) - 1)
        update = engine.step(0.1)
        loss = float(ranks.sum(loss_sum)) / num_pairs(step)
        results.append({"loss": loss, "norm": update.grad_norm, "applied": update.applied})
    return results


def snapshot(engine: Engine) -> dict[str, np.ndarray]:
    return {n: t.cpu().numpy().copy() for n, t in (*engine.weights(), *engine.moments())}


def train_at_every_stage(rank: int, world_size: int) -> dict[int, dict[str, Any]]:
    """In one pair of processes: a run, a run with a poisoned step, and a run resumed in the middle, at each stage."""
    torch.manual_seed(rank)
    return {stage: train_at_stage(stage) for stage in STAGES}


def train_at_stage(stage: int) -> dict[str, Any]:
    settings = EngineSettings(zero_stage=stage, **SETTINGS)
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


def backbone_of(state: dict[str, np.ndarray]) -> ToyBackbone:
    backbone = ToyBackbone(seed=1)
    backbone.model.load_state_dict({n: torch.from_numpy(state[n]) for n in backbone.model.state_dict()})
    return backbone


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The same steps in bare torch, alone."""
    engine = TorchEngine(load_toy, EngineSettings(**SETTINGS))
    return {"results": run_steps(engine, range(STEPS)), "state": snapshot(engine), "sizes": engine.tensor_sizes()}


@pytest.fixture(scope="module")
def at_stage() -> Callable[[int], dict[str, Any]]:
    answers = run_ranks(train_at_every_stage, 2, timeout_s=400)
    for stage in STAGES:  # both ranks see the same whole tensors and the same outcomes
        assert answers[0][stage]["results"] == answers[1][stage]["results"]
        assert same_state(answers[0][stage]["state"], answers[1][stage]["state"])
    return lambda stage: answers[0][stage]


def same_state(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("stage", STAGES)
def test_two_uneven_ranks_equal_bare_torch(stage: int, at_stage: Any, reference: dict[str, Any]) -> None:
    run = at_stage(stage)
    for got, want in zip(run["results"], reference["results"], strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert list(run["state"]) == list(reference["state"])
    for name, want in reference["state"].items():
        # fp32 sums in another order; AdamW divides by the gradient's size, so a rounding error stays one.
        np.testing.assert_allclose(run["state"][name], want, rtol=2e-4, atol=2e-6, err_msg=name)
    assert run["updates"] == STEPS
    assert run["sizes"] == reference["sizes"]
    assert run["empty"] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_clipping_was_at_work(stage: int, at_stage: Any) -> None:
    assert max(r["norm"] for r in at_stage(stage)["results"]) > SETTINGS["max_grad_norm"]


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
    engine = TorchEngine(load_toy, EngineSettings(**SETTINGS))
    run_steps(engine, range(2))
    before = snapshot(engine)
    assert not run_steps(engine, range(2, 3), poisoned=2)[0]["applied"]
    assert same_state(snapshot(engine), before)
    assert engine.updates == 2


def test_bare_torch_resumes_bitwise() -> None:
    engine = TorchEngine(load_toy, EngineSettings(**SETTINGS))
    run_steps(engine, range(2))
    middle = snapshot(engine)
    resumed = TorchEngine(lambda gather: backbone_of(middle), EngineSettings(**SETTINGS))
    resumed.load_moments(lambda name: torch.from_numpy(middle[name]), 2)
    assert run_steps(engine, range(2, STEPS)) == run_steps(resumed, range(2, STEPS))
    assert same_state(snapshot(engine), snapshot(resumed))


def test_biases_do_not_decay() -> None:
    engine = TorchEngine(load_toy, EngineSettings(weight_decay=0.5))
    groups = {g["weight_decay"]: sum(p.numel() for p in g["params"]) for g in engine._optimizer.param_groups}
    assert groups == {0.5: VOCAB_WEIGHTS, 0.0: 6}


VOCAB_WEIGHTS = 11 * 3 + 3 * 5 + 5
