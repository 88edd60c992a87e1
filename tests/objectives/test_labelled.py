"""outcome and process against closed forms, float64 golden values, finite differences and wrong shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rmray.objectives import OBJECTIVES, LossTerms, outcome, process, sum_terms

RIGHT = [0.9, 0.8, 0.95, 0.6]
STEPS = [[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 3.0]]


def logits(probabilities: list[float]) -> torch.Tensor:
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64))


def classes(*labels: int) -> torch.Tensor:
    return torch.tensor(labels, dtype=torch.int64) + 1


def mean_loss(terms: LossTerms) -> float:
    return float(terms.loss_sum.detach()) / terms.weight


def sums(terms: LossTerms) -> dict[str, float]:
    return {name: float(value) for name, value in terms.metrics.items()}


def test_golden_outcome():
    terms = outcome(logits(RIGHT), torch.ones(4))
    assert mean_loss(terms) == pytest.approx(0.2226557463, abs=1e-10)
    assert terms.weight == 4
    assert sums(terms) == {
        "tokens_read": 4,
        "positive": 4,
        "correct": 4,
        "prob_sum": pytest.approx(3.25),
        "prob_sq_sum": pytest.approx(0.81 + 0.64 + 0.9025 + 0.36),
    }
    extremes = math.log(0.6 / 0.4), math.log(0.95 / 0.05)
    assert (float(terms.score_min), float(terms.score_max)) == pytest.approx(extremes)
    assert float(terms.gap_max) == -math.inf, "no score is compared with another one"
    wrong = outcome(-logits(RIGHT), torch.zeros(4, dtype=torch.bool))
    assert mean_loss(wrong) == pytest.approx(0.2226557463, abs=1e-10)
    assert (sums(wrong)["positive"], sums(wrong)["correct"]) == (0, 4)


def test_golden_process():
    terms = process(torch.tensor(STEPS, dtype=torch.float64), classes(-1, 0, -1))
    assert mean_loss(terms) == pytest.approx(1.5957248791, abs=1e-10)
    assert terms.weight == 3
    probs = np.exp(STEPS) / np.exp(STEPS).sum(1, keepdims=True)
    assert sums(terms) == {
        "steps": 3,
        "wrong": 2,
        "neutral": 1,
        "right": 0,
        "correct": 2,
        "prob_sum": pytest.approx(probs[:, 2].sum()),
        "prob_sq_sum": pytest.approx((probs[:, 2] ** 2).sum()),
    }
    assert (float(terms.score_min), float(terms.score_max), float(terms.gap_max)) == (-1.0, 3.0, -math.inf)


def test_a_model_that_knows_nothing_has_the_loss_of_a_guess_and_is_never_right():
    coin = outcome(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0]))
    assert (mean_loss(coin), sums(coin)["correct"]) == (pytest.approx(math.log(2), abs=1e-15), 0)
    for level in (0.0, -7.5):
        even = process(torch.full((3, 3), level, dtype=torch.float64), classes(-1, 0, 1))
        assert (mean_loss(even), sums(even)["correct"]) == (pytest.approx(math.log(3), abs=1e-15), 0)
    half = process(torch.tensor([[1.0, 1.0, 0.0]]), classes(-1))
    assert sums(half)["correct"] == 0, "a tie for the highest logit is not right"


def test_gradients_have_their_closed_forms_and_equal_finite_differences():
    scores_S = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64, requires_grad=True)
    label_S = torch.tensor([True, True, False])
    outcome(scores_S, label_S).loss_sum.backward()
    assert scores_S.grad.numpy() == pytest.approx((scores_S.sigmoid() - label_S.double()).detach().numpy(), abs=1e-15)
    assert torch.autograd.gradcheck(lambda s: outcome(s, label_S).loss_sum, (scores_S,))
    scores_SC = torch.tensor(STEPS, dtype=torch.float64, requires_grad=True)
    class_S = classes(1, -1, 0)
    process(scores_SC, class_S).loss_sum.backward()
    slope_SC = scores_SC.softmax(1) - torch.nn.functional.one_hot(class_S, 3)
    assert scores_SC.grad.numpy() == pytest.approx(slope_SC.detach().numpy(), abs=1e-15)
    assert torch.autograd.gradcheck(lambda s: process(s, class_S).loss_sum, (scores_SC,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient_stay_finite_at_huge_logits(dtype):
    scores_S = torch.tensor([1000.0, -1000.0], dtype=dtype, requires_grad=True)
    terms = outcome(scores_S, torch.tensor([1, 1]))
    terms.loss_sum.backward()
    assert (float(terms.loss_sum.detach()), scores_S.grad.tolist()) == (1000.0, [0.0, -1.0])
    scores_SC = torch.tensor([[1000.0, 0.0, -1000.0]] * 2, dtype=dtype, requires_grad=True)
    terms = process(scores_SC, classes(-1, 1))
    terms.loss_sum.backward()
    assert (float(terms.loss_sum.detach()), scores_SC.grad.tolist()) == (2000.0, [[0, 0, 0], [1, 0, -1]])


def test_one_division_over_uneven_micro_batches_equals_the_whole():
    rng = np.random.default_rng(0)
    scores_S, label_S = torch.tensor(rng.normal(size=50)), torch.tensor(rng.random(50) < 0.4)
    scores_SC, class_S = torch.tensor(rng.normal(size=(50, 3))), torch.tensor(rng.integers(0, 3, 50))
    for loss, scores, targets in ((outcome, scores_S, label_S), (process, scores_SC, class_S)):
        leaf, whole_leaf = scores.clone().requires_grad_(), scores.clone().requires_grad_()
        cuts = [3, 3, 40]
        parts = zip(torch.tensor_split(leaf, cuts), torch.tensor_split(targets, cuts), strict=True)
        total, whole = sum_terms([loss(*part) for part in parts]), loss(whole_leaf, targets)
        assert mean_loss(total) == pytest.approx(mean_loss(whole), abs=1e-14)
        assert sums(total) == pytest.approx(sums(whole), abs=1e-12)
        assert (total.score_min, total.score_max, total.gap_max) == (whole.score_min, whole.score_max, whole.gap_max)
        (total.loss_sum / total.weight).backward()
        (whole.loss_sum / whole.weight).backward()
        assert leaf.grad.numpy() == pytest.approx(whole_leaf.grad.numpy(), abs=1e-15)


def test_nothing_to_read_takes_part_with_weight_zero_and_a_zero_gradient():
    nothing = torch.zeros(0, dtype=torch.int64)
    for loss, scores in ((outcome, torch.randn(4)), (process, torch.randn(4, 3))):
        scores.requires_grad_()
        terms = loss(scores[:0], nothing)
        terms.loss_sum.backward()
        assert (terms.weight, float(terms.loss_sum.detach())) == (0, 0)
        assert not scores.grad.any()
        assert set(sums(terms).values()) == {0}
        assert (float(terms.score_min), float(terms.score_max)) == (math.inf, -math.inf)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_logit_that_is_not_finite_makes_no_finite_loss(bad):
    """Nor a gradient that hides it, as the step is skipped by the gradient's norm."""
    for label in (0, 1):
        scores_S = torch.tensor([bad, 0.5], requires_grad=True)
        loss_sum = outcome(scores_S, torch.tensor([label, 1])).loss_sum
        assert not torch.isfinite(loss_sum)
        (loss_sum * math.nan).backward()  # as `train_step` does
        assert not torch.isfinite(scores_S.grad).all()
    for place in range(3):
        for label in (-1, 0, 1):
            row = [0.0, 1.0, 2.0]
            row[place] = bad
            scores_SC = torch.tensor([row, [0.0, 0.0, 0.0]], requires_grad=True)
            loss_sum = process(scores_SC, classes(label, 0)).loss_sum
            assert not torch.isfinite(loss_sum), (place, label)
            (loss_sum * math.nan).backward()
            assert not torch.isfinite(scores_SC.grad).all()


def test_half_precision_scores_are_widened_before_the_loss():
    terms = outcome(logits(RIGHT).bfloat16(), torch.ones(4, dtype=torch.bfloat16))
    assert terms.loss_sum.dtype == torch.float32
    assert mean_loss(terms) == pytest.approx(0.2226557463, abs=2e-3)  # the logits are rounded
    terms = process(torch.tensor(STEPS, dtype=torch.bfloat16), classes(-1, 0, -1))
    assert terms.loss_sum.dtype == torch.float32
    assert mean_loss(terms) == pytest.approx(1.5957248791, abs=1e-6)


def test_other_shapes_are_refused_never_broadcast():
    scores_S, label_S = torch.randn(4), torch.ones(4)
    with pytest.raises(ValueError, match="scores_S must have one dimension"):
        outcome(scores_S[:, None], label_S)
    with pytest.raises(ValueError, match=r"scores_S is \[4\] but label_S is \[4, 1\]"):
        outcome(scores_S, label_S[:, None])
    with pytest.raises(ValueError, match=r"scores_S is \[4\] but label_S is \[1\]"):
        outcome(scores_S, label_S[:1])
    scores_SC, class_S = torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)
    for wrong in (scores_SC[:, :2], scores_SC[:, 0], scores_SC.T, scores_SC[None]):
        with pytest.raises(ValueError, match=r"scores_SC must be \[S, 3\]"):
            process(wrong, class_S)
    with pytest.raises(ValueError, match=r"a column of scores_SC is \[4\] but class_S is \[1\]"):
        process(scores_SC, class_S[:1])
    with pytest.raises(ValueError, match="class_S must have one dimension"):
        process(scores_SC, class_S[:, None])
    with pytest.raises(ValueError, match="class_S must hold int64"):
        process(scores_SC, class_S.float())
    for outside in (-100, 3):
        with pytest.raises(RuntimeError):
            process(scores_SC, torch.full((4,), outside))


def test_the_table_names_both():
    assert (OBJECTIVES["outcome"], OBJECTIVES["process"]) == (outcome, process)
