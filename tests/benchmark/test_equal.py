"""Rows that do not compute the same are never timed."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from rmray.benchmark import score, train, train_rows, trl_rows
from rmray.benchmark.equal import UnequalError, check_gradients, check_scores
from rmray.benchmark.settings import ScoreSettings, TrainSettings
from rmray.benchmark.words import word_tokenizer
from rmray.benchmark.workloads import Workload, make_groups
from tests.benchmark.conftest import TINY

GROUPS = make_groups(Workload("w", 20, 6, 4), 4, TINY.vocab_size)
TRAIN = TrainSettings(threads=1, rows=train.ROWS)
SCORE = ScoreSettings(threads=1, rows=score.ROWS)


def corrupt(model: Any) -> Any:
    """The model with one weight changed."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[0, 0] += 0.5
    return changed


def test_scores_beyond_rounding_are_refused() -> None:
    assert check_scores("row", [1.0, -2.0], [1.0, -2.0001], 1e-4) == pytest.approx(5e-5, rel=1e-3)
    for other in ([1.0, -2.001], [1.0, np.nan], [1.0]):
        with pytest.raises(UnequalError, match="row"):
            check_scores("row", other, [1.0, -2.0], 1e-4)


def test_gradients_beyond_rounding_are_refused() -> None:
    ours = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    assert check_gradients("row", {"a": torch.tensor([3.0004]), "b": ours["b"]}, ours, 1e-4) == pytest.approx(
        8e-5, 0.01
    )
    with pytest.raises(UnequalError, match="largest part lies in b"):
        check_gradients("row", {"a": ours["a"], "b": torch.tensor([[4.1]])}, ours, 1e-4)
    with pytest.raises(UnequalError, match="other parameters"):
        check_gradients("row", {"a": ours["a"]}, ours, 1e-4)


def test_both_trainers_have_one_gradient_and_a_corrupted_weight_shows(
    prototype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = word_tokenizer(TINY.vocab_size)
    distances = train.check_equal(prototype, GROUPS, TRAIN, tokenizer=tokenizer)
    assert set(distances) == {"scores float32", "gradient float32"}
    assert max(distances.values()) < 1e-5
    true = trl_rows.batch_gradient
    monkeypatch.setattr(trl_rows, "batch_gradient", lambda model, *a, **k: true(corrupt(model), *a, **k))
    with pytest.raises(UnequalError, match="scores differ"):
        train.check_equal(prototype, GROUPS, TRAIN, tokenizer=tokenizer)


def test_a_loss_over_other_pairs_shows_in_the_gradient(prototype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rmray.training.objective import Objective

    monkeypatch.setattr(train_rows, "objective_of", lambda groups: Objective())  # all pairs of each group
    with pytest.raises(UnequalError, match="gradient differs"):
        train.check_equal(prototype, GROUPS, TRAIN, tokenizer=word_tokenizer(TINY.vocab_size))


def test_every_row_scores_the_same_and_a_corrupted_weight_shows(
    prototype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rmray.benchmark import score_rows

    distances = score.check_equal(prototype, GROUPS, SCORE)
    assert set(distances) == set(score.ROWS)
    assert max(distances.values()) < 1e-5
    true = score_rows.RmrayRow
    monkeypatch.setattr(score_rows, "RmrayRow", lambda model, *a: true(corrupt(model), *a))
    with pytest.raises(UnequalError, match="rmray: its scores differ"):
        score.check_equal(prototype, GROUPS, SCORE)
