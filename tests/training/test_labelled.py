"""Outcomes and processes: the same step whatever the micro-batches, and figures that are known by arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

from rmray.data.batch import build_batch
from rmray.data.labels import build_steps, build_tokens
from rmray.data.prepared import Row
from rmray.data.shares import StepShare
from rmray.models.backbone import RewardBackbone
from rmray.models.probabilities import RIGHT, step_probabilities, token_probabilities
from rmray.training.collate import collate
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.held_out_figures import _outcome_figures, _scored_completions, evaluate_shares
from rmray.training.objective import Objective
from rmray.training.step import train_step
from tests.models.architectures import VOCAB
from tests.models.batches import random_groups
from tests.models.test_token_heads import token_model

TOLERANCE = 1e-5
READOUTS = {"outcome": "tokens", "process": "steps"}
BY_NAME = pytest.mark.parametrize("name", READOUTS)
SHAPES = ((17, (5,)), (8, (7,)), (4, (3,)), (0, (6,)))


def rows(name: str) -> list[Row]:
    """Four completions, the prompt of each half of its prefix."""
    labels = [(1,), (0,), (0,), (1,)] if name == "outcome" else [(1, -1), (0, 1, 1), (-1,), (1, 1)]
    ends = [(9, 21), (5, 9, 14), (6,), (2, 5)]
    made = []
    for i, (group, told) in enumerate(zip(random_groups(VOCAB, SHAPES), labels, strict=True)):
        group = replace(group, step_ends=(ends[i],)) if name == "process" else group
        made.append(Row(f"r{i}", i, None, group, (1,), (), None, None, told))
    return made


def engine_of(name: str) -> TorchEngine:
    def load(gather: Any) -> RewardBackbone:
        return RewardBackbone(token_model("qwen3", READOUTS[name]), pooling=READOUTS[name])

    # A plain gradient step, so that what is compared is the gradient and not AdamW's sign of it.
    return TorchEngine(load, EngineSettings(max_grad_norm=1e9, eps=1.0, weight_decay=0.0))


def test_targets_lie_as_scores_do() -> None:
    assert build_tokens(rows("outcome")).label_S.tolist() == [1.0] * 14 + [0.0] * 11 + [0.0] * 5 + [1.0] * 6
    assert build_steps(rows("process")).class_S.tolist() == [2, 0, 1, 2, 2, 0, 2, 2]
    assert [Objective("outcome").num_scores(row) for row in rows("outcome")] == [14, 11, 5, 6]
    assert (Objective("outcome").weight(rows("outcome")), Objective("process").weight(rows("process"))) == (36, 8)


@BY_NAME
def test_micro_batches_make_one_step(name: str) -> None:
    a, b, c, d = rows(name)
    results, weights = [], []
    for cut in ([[a, b, c, d]], [[a], [], [d], [b, c]]):
        engine, objective = engine_of(name), Objective(name)
        share = StepShare(0, 0, tuple(map(tuple, cut)), "hash", 4, 0)
        batches = collate(share, objective, pooling=READOUTS[name])
        results.append(train_step(engine, share, batches, objective, lr=1.0, seed=0))
        weights.append(dict(engine.weights()))
    one, cut = results
    assert (one.units, one.pairs, one.margin, one.comparisons) == (36 if name == "outcome" else 8, 0, None, 4)
    assert (cut.units, cut.accuracy) == (one.units, one.accuracy)
    assert (cut.loss, cut.grad_norm) == pytest.approx((one.loss, one.grad_norm), rel=TOLERANCE)
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, atol=TOLERANCE, rtol=0)


@BY_NAME
def test_the_spread_is_that_of_the_probabilities_of_being_right(name: str) -> None:
    engine, objective, told = engine_of(name), Objective(name), rows(name)
    batch = build_batch([row.group for row in told], pooling=READOUTS[name])
    with torch.no_grad():
        logits = engine.forward(batch).double().numpy()
    right_S = token_probabilities(logits) if name == "outcome" else step_probabilities(logits)[:, RIGHT]
    share = StepShare(0, 0, ((told[0],), tuple(told[1:])), "hash", 4, 0)
    result = train_step(engine, share, collate(share, objective, pooling=READOUTS[name]), objective, lr=1.0, seed=0)
    assert result.score_std == pytest.approx(right_S.std(), rel=TOLERANCE)
    assert result.gap_max is None


@pytest.mark.parametrize("aggregate", ["mean", "min", "product"])
def test_held_out_figures_are_of_the_score_that_will_be_served(aggregate: str) -> None:
    # By their mean the second is the better one, by their least and their product the first.
    logits = [np.array([0.4, 0.4]), np.array([-0.2, 4.0, 0.1])]
    told = rows("outcome")[:2]
    probs = [expit(logits_S) for logits_S in logits]
    want = [float({"mean": np.mean, "min": np.min, "product": np.prod}[aggregate](p)) for p in probs]
    found = _scored_completions(Objective("outcome", aggregate=aggregate), told, logits)
    assert [item.values for item in found] == pytest.approx(want)
    auc = _outcome_figures([replace(item, told=bool(i)) for i, item in enumerate(found)])["eval_auc"]
    assert auc == (1.0 if aggregate == "mean" else 0.0)


@BY_NAME
def test_held_out_figures_do_not_depend_on_the_cut(name: str) -> None:
    a, b, c, d = rows(name)
    engine = engine_of(name)
    whole = evaluate_shares(engine, [[a, b, c, d]], Objective(name), pooling=READOUTS[name])
    cut = evaluate_shares(engine, [[d], [c], [], [a, b]], Objective(name), pooling=READOUTS[name])
    assert whole is not None
    assert cut == pytest.approx(whole, abs=TOLERANCE)
    told = {"outcome": {"eval_examples": 4, "eval_prompts": 4}, "process": {"eval_steps": 8, "eval_solutions": 4}}
    assert whole | told[name] == whole
    assert 0 <= whole["eval_accuracy_low"] <= whole["eval_accuracy"] <= whole["eval_accuracy_high"] <= 1  # type: ignore[operator]


@BY_NAME
def test_a_head_of_zeros_has_the_loss_of_chance(name: str) -> None:
    engine = engine_of(name)
    with torch.no_grad():
        engine.backbone.model.score.weight.zero_()
        engine.backbone.model.score.bias.zero_()
    figures = evaluate_shares(engine, [rows(name)], Objective(name), pooling=READOUTS[name])
    assert figures is not None
    assert figures["eval_loss"] == pytest.approx(math.log(2 if name == "outcome" else 3), abs=1e-6)
    assert figures["eval_auc" if name == "outcome" else "eval_step_auc"] == 0.5
    assert figures["eval_accuracy"] == 0  # what ties is never right


@BY_NAME
def test_a_row_without_a_finite_loss_is_named_and_moves_nothing(name: str) -> None:
    engine, objective = engine_of(name), Objective(name)
    before = {key: weight.clone() for key, weight in engine.weights()}
    bad = rows(name)[1]
    marked = int(bad.group.suffixes[0][-1])
    with torch.no_grad():
        engine.backbone.model.get_input_embeddings().weight[marked] = math.nan
        before = {key: weight.clone() for key, weight in engine.weights()}
    share = StepShare(0, 0, (tuple(rows(name)),), "hash", 4, 0)
    result = train_step(engine, share, collate(share, objective, pooling=READOUTS[name]), objective, lr=1.0, seed=0)
    assert not result.applied
    assert result.loss is None
    assert "r1" in result.faulty_row_ids
    assert all(torch.equal(weight, before[key]) or weight.isnan().any() for key, weight in engine.weights())
