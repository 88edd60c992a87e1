"""Steps of the toy backbone on any engine, with its pairs unevenly split over ranks: what the engine suites run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rmray.data.batch import FlatBatch
from rmray.training.engine import Engine
from tests.training.toys import ToyBackbone, toy_step

STEPS = 6
TOY_SETTINGS = {"weight_decay": 0.1, "max_grad_norm": 0.1}


def load_toy(gather: Any) -> ToyBackbone:
    return ToyBackbone()


def num_pairs(step: int) -> int:
    return (5, 1, 4, 3, 1, 2)[step]


def shares(step: int, rank: int, world_size: int) -> list[FlatBatch | None]:
    """This rank's pairs of a step, one a micro-batch, None where there is nothing: of several ranks the first gets one
    pair, the second what is left, and any other never gets any."""
    pairs = toy_step(step, num_pairs(step))
    share = pairs if world_size == 1 else (pairs[:1], pairs[1:])[rank] if rank < 2 else []
    most = len(pairs) if world_size == 1 else max(1, len(pairs) - 1)
    return [*share, *[None] * (most - len(share))]


def run_steps(engine: Engine, steps: range, poisoned: int | None = None) -> list[dict[str, Any]]:
    """Losses, norms and outcomes of some steps, all with the exact mean over pairs of all ranks.

    poisoned: the step in which rank 0 has a gradient that is not finite."""
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
        applied = bool(update.applied)
        engine.updates += applied
        loss = float(ranks.sum(loss_sum)) / num_pairs(step)
        results.append({"loss": loss, "norm": float(update.grad_norm), "applied": applied})
    return results


State = dict[str, np.ndarray]
"""Weights and moments by name."""


def snapshot(engine: Engine) -> State:
    return {n: t.cpu().numpy().copy() for n, t in (*engine.weights(), *engine.moments())}


def give_weights(backbone: ToyBackbone, state: State) -> ToyBackbone:
    backbone.model.load_state_dict({n: torch.from_numpy(state[n]) for n in backbone.model.state_dict()})
    return backbone


def same_state(a: State, b: State) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[n], b[n]) for n in a)


def check_close(got: State, want: State) -> None:
    assert list(got) == list(want)
    for name in want:
        # fp32 sums in another order; AdamW divides by the gradient's size, so a rounding error stays one.
        np.testing.assert_allclose(got[name], want[name], rtol=2e-4, atol=2e-6, err_msg=name)
