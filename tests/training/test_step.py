"""One step against closed forms: exact means over uneven micro-batches, gradients, skipping, and what is reported."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from rmray.data.batch import FlatBatch
from rmray.data.group import TokenGroup
from rmray.data.prepared import Row
from rmray.data.shares import StepShare
from rmray.errors import TrainingError
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.step import Objective, evaluate_shares, train_step


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


def run(engine: TorchEngine, step_share: StepShare, objective: Objective | None = None) -> dict[str, object]:
    result = train_step(engine, step_share, objective or Objective(), lr=0.1, pooling="last", seed=0)
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
    assert (result["score_min"], result["score_max"]) == (0.5, 3.0)


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
    assert engine.backbone.model.weight.flatten().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_score_that_is_not_finite_skips_the_step_and_names_its_micro_batch(bad: float) -> None:
    engine = engine_of([0.0, bad, 1.0, 2.0])
    before = engine.backbone.model.weight.clone()
    result = run(engine, share([row("fine", (2, 3))], [row("bad", (0, 1))]))
    assert (result["applied"], result["loss"]) == (False, None)
    assert result["faulty_row_ids"] == ("bad",)
    assert torch.equal(engine.backbone.model.weight.nan_to_num(), before.nan_to_num())
    assert engine.updates == 0


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too() -> None:
    engine = engine_of([0.0, 1.0, 2.0, 3.0])
    pairs = [row("fine", (0, 1), margin=0.0)], [row("bad", (2, 3), margin=math.inf)], [row("more", (3, 2), margin=0.0)]
    result = run(engine, share(*pairs), Objective(margin="data"))
    assert (result["applied"], result["grad_norm"], result["faulty_row_ids"]) == (False, None, ("bad",))
    assert engine.backbone.model.weight.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


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
