"""One step against closed forms: exact means over uneven micro-batches, gradients, skipping, and what is reported.

A broken step, of whatever cause, is as if it had never been: same bits after it, same next step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rmray.data.batch import FlatBatch
from rmray.data.group import TokenGroup
from rmray.data.prepared import Row
from rmray.data.shares import StepShare
from rmray.errors import TrainingError
from rmray.training import step as step_module
from rmray.training.collate import collate
from rmray.training.engine import EngineSettings, Ranks, TorchEngine, Update
from rmray.training.held_out_figures import evaluate_shares
from rmray.training.objective import Objective
from rmray.training.step import StepResult, train_step
from tests.spawn import run_ranks


class Lookup(nn.Module):
    """The score of a path is a weight of its own: that of its only token."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.model = nn.Embedding(len(scores), 1)
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor(scores, dtype=torch.float32)[:, None])

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        return self.model(batch.token_ids_T[batch.readout_tokens_R]).squeeze(-1)


def engine_of(scores: Sequence[float], max_grad_norm: float = 1e9) -> TorchEngine:
    return TorchEngine(lambda gather: Lookup(scores), EngineSettings(max_grad_norm=max_grad_norm, weight_decay=0.0))


def row(name: str, tokens: Sequence[int], ranks: Sequence[int] | None = None, margin: float | None = None) -> Row:
    """A comparison whose completions are one token each, best first unless ranked otherwise."""
    group = TokenGroup(np.zeros(0, np.int32), tuple(np.array([t], np.int32) for t in tokens), tuple(0 for _ in tokens))
    ranks = tuple(range(len(tokens))) if ranks is None else tuple(ranks)
    return Row(name, hash(name) % 2**63, None, group, tuple(1 for _ in tokens), ranks, None, margin)


def share(*micro_batches: Sequence[Row], step: int = 0) -> StepShare:
    rows = sum(len(rows) for rows in micro_batches)
    return StepShare(step, 0, tuple(map(tuple, micro_batches)), "hash", rows, 2 * rows)


def step_of(engine: Any, step_share: StepShare, objective: Objective | None = None, flag: float = 0.0) -> StepResult:
    objective = objective or Objective()
    return train_step(
        engine, step_share, collate(step_share, objective, pooling="last"), objective, lr=0.1, seed=0, flag=flag
    )


def run(engine: TorchEngine, step_share: StepShare, objective: Objective | None = None) -> dict[str, object]:
    result = step_of(engine, step_share, objective)
    return {name: getattr(result, name) for name in result.__slots__}


def test_four_pairs_give_the_golden_values() -> None:
    engine = engine_of([2, 1.5, 3, 0.5, 1, 1, 2, 1])
    pairs = [row(f"r{i}", (i, 4 + i)) for i in range(4)]
    result = run(engine, share(pairs[:3], (), pairs[3:]))
    golden = {"loss": 0.5186693358, "accuracy": 0.75, "margin": 0.5, "mean_chosen": 1.75, "mean_rejected": 1.25}
    assert {k: result[k] for k in golden} == pytest.approx(golden, abs=1e-7)
    assert (result["pairs"], result["ties"], result["applied"]) == (4, 0, True)
    scores = np.array([2, 1.5, 3, 0.5, 1, 1, 2, 1])
    assert result["score_std"] == pytest.approx(scores.std(), abs=1e-7)
    assert (result["score_min"], result["score_max"], result["gap_max"]) == (0.5, 3.0, 1.0)


def test_uneven_shards_give_the_mean_over_pairs_and_not_the_mean_of_means() -> None:
    rng = np.random.default_rng(5)
    chosen, rejected = rng.standard_normal(300), rng.standard_normal(300)
    order = rng.permutation(300)
    engine = engine_of([*chosen, *rejected])
    pairs = [row(f"r{i}", (i, 300 + i)) for i in order]
    result = run(engine, share(pairs[:140], pairs[140:210], pairs[210:]))
    assert result["loss"] == pytest.approx(0.898874205, abs=1e-6)  # fp32
    slope = -1 / (1 + np.exp(chosen - rejected)) / 300  # of the mean loss by each chosen score
    assert result["grad_norm"] == pytest.approx(math.sqrt(2 * np.square(slope).sum()), rel=1e-6)


def test_equal_scores_give_ln_2_and_are_ties() -> None:
    result = run(engine_of([1.0, 1.0]), share([row("a", (0, 1))]))
    assert result["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert (result["accuracy"], result["ties"]) == (0.0, 1)


def test_margins_and_centering_reach_the_loss() -> None:
    pairs = [row(f"r{i}", (i, 4 + i), margin=m) for i, m in enumerate((1.0, 0.0, 0.5, 2.0))]
    scores = [2, 1.5, 3, 0.5, 1, 1, 2, 1]
    assert run(engine_of(scores), share(pairs), Objective(margin="data"))["loss"] == pytest.approx(1.0550477208)
    assert run(engine_of(scores), share(pairs), Objective(margin=0.5))["loss"] == pytest.approx(0.7386407091)
    centered = run(engine_of(scores), share(pairs), Objective(center=0.01))["loss"]
    assert centered == pytest.approx(0.5186693358 + 0.10625)


def test_every_strict_pair_of_a_ranking_counts_and_ties_make_none() -> None:
    result = run(engine_of([3.0, 2.0, 2.5, 0.0]), share([row("k", (0, 1, 2, 3), ranks=(0, 1, 1, 2))]))
    assert result["pairs"] == 5
    assert result["accuracy"] == 1.0


def test_a_step_without_any_pair_moves_nothing_and_has_no_mean() -> None:
    engine = engine_of([1.0, 2.0])
    result = run(engine, share([row("tied", (0, 1), ranks=(0, 0))]))
    assert (result["loss"], result["accuracy"], result["pairs"], result["grad_norm"]) == (None, None, 0, 0.0)
    assert (result["score_min"], result["score_max"], result["gap_max"]) == (None, None, None)
    assert engine.backbone.model.weight.flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_score_that_is_not_finite_skips_the_step_and_names_its_row(bad: float) -> None:
    engine = engine_of([0.0, bad, 1.0, 2.0])
    before = engine.backbone.model.weight.clone()
    result = run(engine, share([row("fine", (2, 3))], [row("good", (3, 2)), row("bad", (0, 1))]))
    assert (result["applied"], result["loss"], result["gap_max"]) == (False, None, None)
    assert result["faulty_row_ids"] == ("bad",)
    assert torch.equal(engine.backbone.model.weight.nan_to_num(), before.nan_to_num())
    assert engine.updates == 0


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too() -> None:
    engine = engine_of([0.0, 1.0, 2.0, 3.0])
    pairs = [row("fine", (0, 1), margin=0.0)], [row("bad", (2, 3), margin=math.inf)], [row("more", (3, 2), margin=0.0)]
    result = run(engine, share(*pairs), Objective(margin="data"))
    assert (result["applied"], result["grad_norm"], result["faulty_row_ids"]) == (False, None, ("bad",))
    assert engine.backbone.model.weight.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


class Faulty(nn.Module):
    """Sound weights; the scores of a few tokens are not: 5 is read as its weight's root, 6 to 8 times `BROKEN`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Embedding(9, 1)
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([0.5, -0.25, 1.0, 0.75, -1.0, 0.0, 1.0, 1.0, 1.0])[:, None])

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        tokens_S = batch.token_ids_T[batch.readout_tokens_R]
        weights_S = self.model(tokens_S).squeeze(-1)
        is_root_S = tokens_S == 5
        roots_S = weights_S.where(is_root_S, 1.0).sqrt()  # the root of 0 is 0; its slope is infinite
        factor = torch.tensor([1.0] * 6 + BROKEN)
        return torch.where(is_root_S, roots_S, weights_S * factor[tokens_S])


BROKEN = [math.inf, -math.inf, math.nan]
GOOD = ([row("a", (0, 1), margin=0.0), row("b", (2, 3), margin=0.0)], [row("c", (1, 4), margin=0.0)])


def train_faulty(engine: TorchEngine, step_share: StepShare) -> StepResult:
    return step_of(engine, step_share, Objective(margin="data"))


def bits_of(engine: TorchEngine) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in [*engine.weights(), *engine.moments()]}


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        pytest.param(row("bad", (2, 3), margin=math.inf), ("bad",), id="infinite margin, finite gradient"),
        pytest.param(row("bad", (2, 6), margin=0.0), ("bad",), id="infinite score"),
        pytest.param(row("bad", (7, 2), margin=0.0), ("bad",), id="score of minus infinity"),
        pytest.param(row("bad", (8, 2), margin=0.0), ("bad",), id="NaN score"),
        pytest.param(row("bad", (2, 5), margin=0.0), ("a", "b", "bad", "c"), id="finite loss, infinite gradient"),
    ],
)
def test_a_broken_step_is_as_if_it_had_never_been(bad: Row, named: tuple[str, ...]) -> None:
    engine, spared = (
        TorchEngine(lambda gather: Faulty(), EngineSettings(max_grad_norm=1.0, weight_decay=0.01)) for _ in range(2)
    )
    first, last = share(*GOOD, step=0), share(*GOOD[::-1], step=2)
    start = train_faulty(engine, first)
    before = bits_of(engine)
    assert set(before) == {"weight", "weight.exp_avg", "weight.exp_avg_sq"}

    broken = train_faulty(engine, share(GOOD[0], [*GOOD[1], bad], step=1))
    assert (broken.applied, broken.grad_norm, broken.faulty_row_ids) == (False, None, named)
    assert (broken.loss is None) == (named == ("bad",))
    assert bits_of(engine) == before
    assert engine.updates == 1

    assert [start, train_faulty(engine, last)] == [train_faulty(spared, first), train_faulty(spared, last)]
    assert (engine.updates, spared.updates) == (2, 2)
    assert bits_of(engine) == bits_of(spared) != before


def test_a_sum_that_runs_over_names_its_micro_batch() -> None:
    huge = 3e38  # float32 ends at 3.4e38: each loss is finite, two of them are not
    rows = [row("x", (0, 1), margin=huge), row("y", (2, 3), margin=huge)]
    result = run(
        engine_of([0.0, 1.0, 2.0, 3.0]),
        share([row("fine", (0, 1), margin=0.0)], rows),
        Objective("bradley_terry", "data"),
    )
    assert (result["applied"], result["faulty_row_ids"]) == (False, ("x", "y"))


class Still:
    """An engine of several ranks that never moves: for what they tell each other."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.ranks, self.backbone, self.updates = Ranks(), Lookup(scores), 0

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        return self.backbone(batch)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        pass

    def step(self, lr: float) -> Update:
        return Update(torch.tensor(1.0), torch.tensor(True))


def told_on_two_ranks(rank: int, world_size: int) -> list[StepResult]:
    """Steps whose pairs rank 0 has alone; nobody, rank 0, rank 1 and both raise their flag."""
    own = share([row("a", (0, 1)), row("b", (2, 3))] if rank == 0 else [])
    engine: Any = Still([2.0, 1.5, -1.0, 3.0])
    flags = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    return [step_of(engine, own, flag=f[rank]) for f in flags]


def test_ranks_learn_of_a_flag_and_an_empty_shard_disturbs_no_extreme() -> None:
    seen = run_ranks(told_on_two_ranks, 2)
    assert [[result.flagged for result in results] for results in seen] == [[False, True, True, True]] * 2
    for result in [result for results in seen for result in results]:
        assert (result.pairs, result.score_min, result.score_max, result.gap_max) == (2, -1.0, 3.0, 4.0)


class Waits(TorchDispatchMode):
    """Counts the operations that make the CPU wait for a device: reading a number, branching on one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_from_the_device_before_the_end_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, at_fetch = Waits(), []
    engine = engine_of([2, 1.5, 3, 0.5])
    fetch = step_module.over_ranks
    monkeypatch.setattr(step_module, "over_ranks", lambda *a: at_fetch.append(waits.count) or fetch(*a))
    with waits:
        step_of(engine, share([row("a", (0, 2))], [row("b", (1, 3))]))
    assert at_fetch == [0]


def test_a_flag_is_no_part_of_the_step() -> None:
    plain, flagged = (step_of(engine_of([1.0, 2.0]), share([row("a", (0, 1))]), flag=f) for f in (0.0, 1.0))
    assert not plain.flagged
    assert flagged == replace(plain, flagged=True)


def test_evaluation_is_exact_and_trains_nothing() -> None:
    engine = engine_of([2, 1.5, 3, 0.5, 1, 1, 2, 1])
    pairs = [row(f"r{i}", (i, 4 + i)) for i in range(4)]
    figures = evaluate_shares(engine, [pairs[:3], [], pairs[3:]], Objective(), pooling="last")
    assert figures is not None
    assert figures["eval_loss"] == pytest.approx(0.5186693358, abs=1e-7)
    assert (figures["eval_accuracy"], figures["eval_pairs"], figures["eval_prompts"]) == (0.75, 4, 4)
    assert figures["eval_accuracy_low"] <= 0.75 <= figures["eval_accuracy_high"]
    assert all(parameter.grad is None for parameter in engine.backbone.parameters())
    assert evaluate_shares(engine, [], Objective(), pooling="last") is None


def test_evaluation_of_broken_weights_is_an_error() -> None:
    with pytest.raises(TrainingError, match="not finite") as caught:
        evaluate_shares(engine_of([math.nan, 0.0]), [[row("r", (0, 1))]], Objective(), pooling="last")
    assert "r:0:1" in str(caught.value)
