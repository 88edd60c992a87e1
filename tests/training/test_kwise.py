"""A ranking of four costs one forward, and weighs and learns the same through every kind of batch.

fp32 throughout; a batch of another kind sums in another order. Over workers: `test_loop`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rmray.data.batch import build_batch
from rmray.data.group import TokenGroup, group_paths
from rmray.data.pairs import pairs_of
from rmray.data.prepared import Row
from rmray.data.shares import StepShare
from rmray.models.backbone import RewardBackbone
from rmray.training.collate import collate
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.held_out_figures import evaluate_shares
from rmray.training.objective import Objective
from rmray.training.step import train_step
from tests.models.architectures import ARCHITECTURES, VOCAB, build
from tests.models.batches import random_groups

QWEN3 = next(a for a in ARCHITECTURES if a.name == "qwen3")
TOLERANCE = 1e-5
OBJECTIVES = (
    Objective("all_pairs"),
    Objective("all_pairs", margin=0.5, center=0.01, label_smoothing=0.1),
    Objective("plackett_luce"),
    Objective("bradley_terry"),
)
BY_NAME = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name + "-smoothed" * bool(o.label_smoothing))


def rows() -> list[Row]:
    """Rankings of four, one with ties, a pair and one that tells nothing."""
    shapes = ((17, (5, 9, 1, 4)), (8, (7, 7)), (4, (3, 6, 2, 9)), (0, (6, 2, 3)))
    ranks = ((2, 0, 3, 1), (1, 0), (1, 0, 1, 2), (0, 0, 0))
    return [
        Row(f"r{i}", i, None, group, (1,) * len(order), order, None, None)
        for i, (group, order) in enumerate(zip(random_groups(VOCAB, shapes), ranks, strict=True))
    ]


def backbone(**options: Any) -> RewardBackbone:
    return RewardBackbone(build(QWEN3), **options)


def alone(group: TokenGroup) -> list[TokenGroup]:
    """Each path without the others: the prompt again and again."""
    return [group_paths([group.path(k).tolist()], [1]) for k in range(group.num_completions)]


@BY_NAME
def test_packed_unshared_and_padded_give_one_loss(objective: Objective) -> None:
    targets = objective.targets(rows())
    groups = [row.group for row in rows()]
    one_by_one = [path for group in groups for path in alone(group)]
    with torch.no_grad():
        ways = {
            "shared": backbone()(build_batch(groups)),
            "packed": backbone()(build_batch(one_by_one)),
            "padded": backbone(packed=False)(build_batch(groups)),
            "alone": torch.cat([backbone()(build_batch([path])) for path in one_by_one]),
        }
    losses = {way: float(objective.terms(scores_S, targets).loss_sum) for way, scores_S in ways.items()}
    assert losses == pytest.approx(dict.fromkeys(ways, losses["shared"]), abs=TOLERANCE)
    assert losses["shared"] > 0.1


@BY_NAME
def test_micro_batches_make_one_step(objective: Objective) -> None:
    a, b, c, tied = rows()
    results, weights = [], []
    for cut in ([[a, b, c, tied]], [[a], [], [tied], [b, c]], [[c, tied], [b], [a]]):
        # A plain gradient step, so that what is compared is the gradient and not AdamW's sign of it.
        engine = TorchEngine(lambda gather: backbone(), EngineSettings(max_grad_norm=1e9, eps=1.0, weight_decay=0.0))
        share = StepShare(0, 0, tuple(map(tuple, cut)), "hash", 4, 0)
        batches = collate(share, objective, pooling="last")
        results.append(train_step(engine, share, batches, objective, lr=1.0, seed=0))
        weights.append(dict(engine.weights()))
    for result in results[1:]:
        assert (result.pairs, result.ties, result.accuracy) == (12, 0, results[0].accuracy)
        for name in ("loss", "grad_norm", "margin", "score_std"):
            assert getattr(result, name) == pytest.approx(getattr(results[0], name), rel=TOLERANCE), name
    for other in weights[1:]:
        for name, weight in weights[0].items():
            torch.testing.assert_close(other[name], weight, atol=TOLERANCE, rtol=0)


@BY_NAME
def test_held_out_loss_is_by_prompt_and_accuracy_by_pair(objective: Objective) -> None:
    engine = TorchEngine(lambda gather: backbone(), EngineSettings())
    a, b, c, tied = rows()
    whole = evaluate_shares(engine, [[a, b, c, tied]], objective, pooling="last")
    cut = evaluate_shares(engine, [[tied], [c], [], [a, b]], objective, pooling="last")
    assert cut == pytest.approx(whole, abs=TOLERANCE)
    assert whole is not None
    assert (whole["eval_pairs"], whole["eval_prompts"]) == (12, 3)
    by_row = [evaluate_shares(engine, [[row]], objective, pooling="last")["eval_loss"] for row in (a, b, c)]
    weights = [6, 1, 5] if objective.name == "bradley_terry" else [1, 1, 1]
    mean = sum(w * loss for w, loss in zip(weights, by_row, strict=True)) / sum(weights)
    assert whole["eval_loss"] == pytest.approx(mean, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["all_pairs", "plackett_luce"])
def test_a_group_costs_one_shared_forward(name: str) -> None:
    """Six pairs of four completions: the prompt is computed once and not twelve times, each completion once."""
    [row] = [replace(row, ranks=(0, 1, 2, 3)) for row in rows()[:1]]
    model, objective, computed = backbone(), Objective(name), []
    model.model.base_model.layers[0].mlp.register_forward_pre_hook(lambda mlp, args: computed.append(args[0].shape[1]))
    terms = objective.terms(model(build_batch([row.group])), objective.targets([row]))
    terms.loss_sum.backward()
    assert terms.metrics["pairs"] == len(pairs_of(row.ranks)) == 6
    assert computed == [row.group.num_tokens] == [17 + 5 + 9 + 1 + 4]
    as_pairs = sum(len(row.group.path(k)) for pair in pairs_of(row.ranks) for k in pair)
    assert as_pairs == 12 * 17 + 3 * (5 + 9 + 1 + 4) == 261
