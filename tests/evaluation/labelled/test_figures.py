"""Figures of labelled records over the arithmetic scorer: known by hand, nothing lost, nothing NaN."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.errors import DataError, RowError
from rmray.evaluation.labelled.answer import read_answer
from rmray.evaluation.labelled.files import labelled_set
from rmray.evaluation.labelled.log import LabelledLog
from rmray.metrics.outcome import outcome_metrics
from rmray.metrics.process import UNTOLD
from rmray.schema import ScoreFailure, ScoreResult
from tests.evaluation.labelled.examples import evaluated, outcome, process, strict_json
from tests.fakes import ArithmeticScorer


def test_outcomes_by_hand():
    """Means 0.8125, 0.5 x 2, 0.2, minima 0.6, 0.1, 0.5, 0.2; the first and the third are right."""
    out = strict_json(
        evaluated([
            outcome("0.9 0.8 0.95 0.6", True, "a"),
            outcome("0.1 0.9", False, "b"),
            outcome("0.5", True, "b"),
            outcome("0.2 0.2", False, "c"),
        ])
    )  # fmt: skip
    assert (out["records"], out["kind"], out["rows"], out["examples"], out["prompts"], out["positives"]) == (
        "outcome", "outcome", 4, 4, 3, 2,
    )  # fmt: skip
    assert out["auc"] == out["aggregates"]["mean"]["auc"] == 3.5 / 4, "0.5 ties with 0.5"
    assert out["aggregates"]["min"]["auc"] == out["aggregates"]["product"]["auc"] == 1.0
    assert out["accuracy"] == 2 / 4, "a probability of 0.5 is on no side"
    assert out["brier"] == pytest.approx((0.1875**2 + 0.25 + 0.25 + 0.04) / 4)
    assert out["length_rule_auc"] == pytest.approx((1 + 1 + 0 + 0) / 4), "16 and 3 characters against 7 and 7"
    assert (out["bag_of_words_auc"], out["bag_of_words_auc_low"]) == (None, None), "there was nothing to learn from"
    assert [w["row_id"] for w in out["worst"]] == [], "nothing is more than 0.5 off"
    assert sum(out["probabilities"]["right"]) == sum(out["probabilities"]["wrong"]) == 2


def test_json_has_the_names_that_checks_rely_on():
    outcomes = evaluated([outcome("0.9", True, "a"), outcome("0.3", False, "b")]).headline()
    wanted = (
        "auc auc_low auc_high accuracy accuracy_low accuracy_high ece brier positives examples prompts length_rule_auc "
        "bag_of_words_auc aggregates quarantined failed rows model_version notes"
    )
    assert set(wanted.split()) <= set(outcomes)
    processes = evaluated([process(["0.9"], [1], "a"), process(["0.3"], [-1], "b")]).headline()
    wanted = (
        "step_accuracy step_accuracy_low step_accuracy_high first_error_f1 first_error_f1_low first_error_f1_high "
        "error_accuracy right_accuracy steps solutions step_auc baselines aggregates quarantined failed rows"
    )
    assert set(wanted.split()) <= set(processes)
    wanted = "majority_accuracy length_rule_auc length_rule_auc_low length_rule_auc_high bag_of_words_auc"
    assert set(wanted.split()) <= set(processes["baselines"])


def test_processes_by_hand():
    """The fake calls a step right above 0.6, wrong up to 0.4."""
    out = strict_json(
        evaluated([
            process(["0.9 one", "0.1 two", "0.8 three"], [1, -1, -1], "a"),
            process(["0.9", "0.5"], [1, 0], "b"),
            process(["0.3", "0.9"], [1, 1], "b"),
            process(["0.7", "0.5"], [1, -1], "c"),
        ])
    )  # fmt: skip
    assert (out["records"], out["solutions"], out["steps"], out["prompts"]) == ("process", 4, 9, 3)
    assert (out["wrong_steps"], out["neutral_steps"], out["right_steps"]) == (3, 1, 5)
    assert out["step_accuracy"] == pytest.approx(6 / 9)
    assert out["majority_accuracy"] == out["baselines"]["majority_accuracy"] == pytest.approx(5 / 9)
    assert (out["error_accuracy"], out["right_accuracy"], out["first_error_f1"]) == (0.5, 0.5, 0.5)
    # Right steps 0.9 0.9 0.3 0.9 0.7 against wrong ones 0.1 0.8 0.5.
    assert out["step_auc"] == pytest.approx((3 + 3 + 1 + 3 + 2) / 15)
    # Of right steps' lengths 7 3 3 3 3 and of wrong ones' 7 9 3.
    assert out["baselines"]["length_rule_auc"] == pytest.approx((1.5 + 4 * 0.5) / 15)
    assert out["aggregates"]["min"]["auc"] == pytest.approx(2.5 / 4), "0.5 and 0.3 against 0.1 and 0.5"
    first, second = out["worst"]
    assert (first["row_id"], first["first_error"], first["called_error"]) == ("file:1", 1, 1)
    assert first["steps"][2] == ["0.8 three", -1, 0.8]
    assert (second["row_id"], second["loss"]) == ("file:3", pytest.approx(0.7))


def test_the_figures_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    probs, labels, prompts = rng.random(60).round(3), rng.random(60) < 0.5, rng.integers(0, 20, 60)
    records = [outcome(f"{p}", bool(y), f"p{i}") for p, y, i in zip(probs, labels, prompts, strict=True)]
    out, metrics = evaluated(records).headline(), outcome_metrics(probs, labels, prompts)
    for name in ("auc", "accuracy", "ece", "brier", "positives", "prompts"):
        assert out[name] == pytest.approx(getattr(metrics, name), abs=1e-12), name
    assert evaluated(records, records_at_once=7).to_json() == evaluated(records).to_json()


def test_nothing_is_lost_and_what_is_left_out_is_told():
    records = [
        outcome("0.9", True, "a"), RowError("bad_label", "no label"), outcome("0.2", False, "b"),
        RowError("bad_label", "no label either", where="there, line 4"), outcome("0.4" * 400, False, "c"),
    ]  # fmt: skip
    out = strict_json(evaluated(records))
    assert (out["rows"], out["examples"]) == (5, 2)
    assert (out["quarantined"], out["failed"]) == ({"bad_label": 2}, {"over_length": 1})
    assert out["quarantine_examples"] == {"bad_label": "file:2, line 2: no label"}
    assert "Quarantined (bad_label): 2 rows, the first at file:2, line 2: no label" in out["notes"]
    with pytest.raises(DataError, match="no record could be scored") as told:
        evaluated(records[1:2])
    assert "1 row read. Quarantined (bad_label)" in str(told.value)
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluated([])


def test_a_reader_is_told_what_a_figure_does_not_say():
    alike = evaluated([outcome("0.9", True, "a"), outcome("0.8", True, "b")])
    assert (alike.metrics.auc, alike.aggregates["mean"]["auc"], alike.baselines["length_rule_auc"]) == (None,) * 3
    assert "All completions are of one kind: there is nothing to tell apart, and so no AUC." in alike.notes
    assert any("Calling every completion right has an accuracy of 1.000" in note for note in alike.notes)
    right = evaluated([process(["0.9"], [1], "a"), process(["0.9", "0.7"], [1, 0], "a")])
    assert "There is no F1 of the first error: no solution has a wrong step." in right.notes
    assert any("one prompt" in note for note in right.notes)
    coin = evaluated([outcome(f"{0.3 + 0.4 * (i % 2)}", i % 4 < 2, f"p{i}") for i in range(40)])
    assert "The AUC of completions cannot be told from chance, 0.5." in coin.notes
    longer = evaluated([outcome("0.9 0.9" if i % 2 else "0.1", bool(i % 2), f"p{i}") for i in range(40)])
    assert any("'longer is right' has an AUC of 1.000" in note for note in longer.notes)


def test_the_bag_of_words_learns_from_training_texts_of_other_prompts():
    def solved(i: int, prompt: str) -> object:
        return outcome(f"0.{1 + i % 9} {'therefore' if i % 2 else 'maybe'} it is x{i % 5}", bool(i % 2), prompt)

    held_out = [solved(i, f"p{i}") for i in range(40)]
    out = evaluated(held_out, train=[solved(i, f"t{i}") for i in range(60)])
    assert out.baselines["bag_of_words_auc"] == 1.0
    assert out.details["bag_of_words"] == {"texts": 40, "fitted_texts": 60}
    leaking = evaluated(held_out, train=[solved(i, f"p{i}") for i in range(30)])
    assert leaking.baselines["bag_of_words_auc"] is None
    assert any("30 of 30 training texts are of prompts that are evaluated" in note for note in leaking.notes)
    words = ["fine" if i % 3 else "wrong" for i in range(30)]
    labels = [1 if word == "fine" else -1 for word in words]
    steps = [process([f"0.9 so {words[i]}", "0.5 eh"], [labels[i], 0], f"p{i}") for i in range(30)]
    taught = evaluated(steps, train=[process(s.steps.texts, s.labels, f"t{i}") for i, s in enumerate(steps)])
    assert taught.headline()["baselines"]["bag_of_words_auc"] == 1.0
    assert taught.details["bag_of_words"] == {"texts": 30, "fitted_texts": 30}, "neutral steps are of neither kind"


def result(**details: object) -> ScoreResult:
    return ScoreResult(raw=0.5, reward=0.5, quantile=0.5, model_version="v", reference="r", num_tokens=1, **details)


def test_what_a_result_says_of_an_outcome():
    record = outcome("x", True)
    assert read_answer(record, result(prob_mean=0.5, prob_min=0.25, prob_product=0.1)).aggregates == (0.5, 0.25, 0.1)
    assert read_answer(record, result(token_scores=(0.25, 0.75))).aggregates == pytest.approx((0.5, 0.25, 0.1875))
    for details, code in (
        ({}, "no_probability"),
        ({"token_scores": ()}, "no_probability"),
        ({"token_scores": (0.5, float("nan"))}, "bad_probability"),
        ({"prob_mean": 1.5, "prob_min": 0.25, "prob_product": 0.1}, "bad_probability"),
    ):
        failure = read_answer(record, result(**details))
        assert isinstance(failure, ScoreFailure)
        assert failure.code == code
    failure = ScoreFailure(code="over_length", message="too long")
    assert read_answer(record, failure) is failure


def test_the_first_error_that_a_model_names_stands_above_its_steps():
    log = LabelledLog()
    for i, label in enumerate((-1, 1)):
        said = result(token_scores=(0.9, 0.8), step_labels=(1, 1), first_error=1)
        log.add(f"row:{i}", process(["a", "b"], [1, label], f"p{i}"), said)
    out = labelled_set(ArithmeticScorer(kind="process").info, log, kind="process").model.metrics
    assert (out.error_accuracy, out.right_accuracy, out.step_accuracy) == (1.0, 0.0, 0.75)


def test_what_a_result_says_of_steps():
    record = process(["a", "b", "c"], [1, 1, -1])
    plain = read_answer(record, result(token_scores=(0.9, 0.5, 0.2)))
    assert (plain.called, plain.called_error) == ((1, UNTOLD, -1), 2), "0.5 decides where nothing else is told"
    told = read_answer(record, result(token_scores=(0.9, 0.5, 0.4), step_labels=(1, -1, 0), first_error=1))
    assert (told.called, told.called_error) == ((1, -1, 0), 1)
    assert read_answer(record, result(token_scores=(0.9, 0.5, 0.4), first_error=-1)).called_error == -1
    for details, code in (
        ({"prob_mean": 0.5, "prob_min": 0.5, "prob_product": 0.5}, "no_probability"),
        ({"token_scores": (0.9, 0.5)}, "step_count"),
        ({"token_scores": (0.9, 0.5, 0.5), "step_labels": (1, 1)}, "step_count"),
        ({"token_scores": (0.9, 0.5, 0.5), "step_labels": (1, 1, 7)}, "bad_label"),
    ):
        failure = read_answer(record, result(**details))
        assert isinstance(failure, ScoreFailure), details
        assert failure.code == code
