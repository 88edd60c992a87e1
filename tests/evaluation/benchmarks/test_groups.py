"""RewardBench 2, PPE's samples and ProcessBench: answers computed by hand, on files made by hand."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score

from rmray.errors import ConfigError, DataError
from rmray.evaluation.benchmarks import run_benchmark
from tests.evaluation.benchmarks.fakes import (
    BY_FIRST_WORD,
    CONSTANT,
    StepSource,
    ppe_correctness,
    processbench,
    rewardbench2,
    run,
    scores,
    section,
    write,
)

# Ties of three prompts.   spread      gap         reference's gap
#   1: right 5 4, wrong 2 1     1      4 - 2 = 2       3 - 2.5 = 0.5
#   2: right 5 1, wrong 0.5     4    1 - 0.5 = 0.5       1 - 2 = -1
#   3: right 4 3, wrong 1       1      3 - 1 = 2         3 - 0 = 3
# tied right 3/3, references right 2/3, gap > spread 2/3, both gaps > spread 1/3, margin
# (tanh(0.5 / 1 - 1) + tanh(-1 / 4 - 1) + tanh(2 / 1 - 1)) / 3 = (-0.4621171573 - 0.8482836400 + 0.7615941560) / 3
TIES = [
    rewardbench2("Ties", [5, 4], [1, 2], "tied:1"),
    rewardbench2("Ties", [3], [2.5, 1], "ref:1"),
    rewardbench2("Ties", [5, 1], [0.5], "tied:2"),
    rewardbench2("Ties", [1], [2], "ref:2"),
    rewardbench2("Ties", [3, 4], [1], "tied:3"),
    rewardbench2("Ties", [3], [0], "ref:3"),
]
TIES_SCORE = 0.30 * 1 + 0.30 * 2 / 3 + 0.20 * 2 / 3 + 0.20 * 1 / 3 + 0.01 * -0.1829355471


def test_rewardbench2_best_of_four_shares_a_tied_top(tmp_path):
    rows = [
        rewardbench2("Factuality", [3], [1, 2, 0], "1"),  # 1
        rewardbench2("Factuality", [2], [2, 2, 0], "2"),  # 1/3
        rewardbench2("Precise IF", [1], [2, 0, 0], "3"),  # 0
    ]
    result = run(tmp_path, "rewardbench2", rows)
    assert scores(result) == pytest.approx({"Factuality": 2 / 3, "Precise IF": 0.0})
    assert result.score == pytest.approx(1 / 3)


def test_rewardbench2_ties(tmp_path):
    result = run(tmp_path, "rewardbench2", [rewardbench2("Focus", [1], [0, 0, 0]), *TIES])
    assert section(result, "Ties").score == pytest.approx(TIES_SCORE, abs=1e-9) == pytest.approx(0.69817064, abs=1e-8)
    assert section(result, "Ties").items == 6
    assert result.score == pytest.approx((1 + TIES_SCORE) / 2)
    assert -0.01 <= section(result, "Ties").score_low <= TIES_SCORE <= section(result, "Ties").score_high <= 1.01


def test_rewardbench2_ties_without_spread_have_the_margin_of_an_infinite_gap(tmp_path):
    rows = [rewardbench2("Ties", [2, 2], [1], "tied:7"), rewardbench2("Ties", [2], [1], "ref:7")]
    assert run(tmp_path, "rewardbench2", rows).score == pytest.approx(0.30 + 0.30 + 0.20 + 0.20 + 0.01)


def test_rewardbench2_of_a_constant_scorer(tmp_path):
    subsets = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
    rows = [*(rewardbench2(subset, [3], [2, 1, 0]) for subset in subsets), *TIES]
    result = run(tmp_path, "rewardbench2", rows, CONSTANT)
    assert scores(result) == {**dict.fromkeys(subsets, 0.25), "Ties": 0.0}
    assert result.score == pytest.approx(5 * 0.25 / 6)
    assert not result.notes


def test_rewardbench2_ties_need_both_versions_of_a_prompt(tmp_path):
    rows = [TIES[0], rewardbench2("Math", [2], [1, 1, 1])]
    result = run(tmp_path, "rewardbench2", rows)
    assert (scores(result)["Ties"], result.score) == (None, 1.0)
    assert any("Ties has no prompt with both" in note for note in result.notes)
    alone = run(tmp_path, "rewardbench2", TIES[:1])
    assert (alone.score, alone.score_low, alone.items) == (None, None, 1)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (rewardbench2("Math", [2], [1, 1]), "wrong_count"),
        (rewardbench2("Math", [2, 2], [1, 1, 1]), "wrong_count"),
        ({**rewardbench2("Math", [2], [1, 1, 1]), "num_correct": 2}, "wrong_count"),
        (rewardbench2("Poetry", [2], [1, 1, 1]), "unknown_subset"),
        (rewardbench2("Ties", [2], [1], "17"), "bad_id"),
        ({**rewardbench2("Math", [2], [1, 1, 1]), "chosen": "one text"}, "bad_type"),
        ({"subset": "Math", "prompt": "p", "chosen": ["1"]}, "missing_field"),
    ],
)
def test_rewardbench2_quarantines_rows_of_another_form(tmp_path, row, code):
    result = run(tmp_path, "rewardbench2", [row, rewardbench2("Math", [2], [1, 1, 1])])
    assert (dict(result.quarantined), result.items, result.score) == ({code: 1}, 1, 1.0)
    assert any(f"Quarantined ({code}): 1 row" in note for note in result.notes)


def ppe_files(tmp_path):
    """MATH: by falling score right, wrong, right, wrong. GPQA: the wrong one of two scores higher."""
    math = ppe_correctness([True, False, True, False], [3, 2, 1, 0], sampled_conflict_pairs=[[0, 1], [1, 2]])
    gpqa = ppe_correctness([True, False], [0, 1])
    return [
        write(tmp_path / "PPE-MATH-Best-of-K" / "data" / "train.jsonl", [math]),
        write(tmp_path / "PPE-GPQA-Best-of-K.jsonl.gz", [gpqa]),
    ]


def test_ppe_samples(tmp_path):
    result = run_benchmark("ppe-correctness", ppe_files(tmp_path), BY_FIRST_WORD)
    # Best of K in MATH: 1/2; of six pairs of samples four pick a right one; of four triples three; 1. In GPQA: 1/2, 0.
    assert scores(result) == pytest.approx(
        {
            "MATH": 0.5,  # of the two sampled pairs
            "GPQA": 0.0,
            "best of K: maximum": (1 + 0.5) / 2,
            "best of K: end": (1 + 0) / 2,
            "ROC AUC within prompts": (roc_auc_score([1, 0, 1, 0], [3, 2, 1, 0]) + 0) / 2,
        }
    )
    assert scores(result)["ROC AUC within prompts"] == 0.375, "3 of 4 pairs in MATH, none in GPQA"
    assert result.score == 0.25
    assert any("mean over domains: 0.3750" in note for note in result.notes)


def test_ppe_samples_compares_all_pairs_where_none_are_sampled(tmp_path):
    row = ppe_correctness([True, False, True, False], [3, 2, 1, 0], domain="mbpp_plus")
    assert scores(run(tmp_path, "ppe-correctness", [row]))["MBPP-Plus"] == 0.75


def test_ppe_samples_of_a_constant_scorer(tmp_path):
    result = run_benchmark("ppe-correctness", ppe_files(tmp_path), CONSTANT)
    assert result.score == 0, "no strict win"
    assert scores(result)["best of K: end"] == 0.5, "the pick among equals is random"
    assert scores(result)["ROC AUC within prompts"] == 0.5


def test_ppe_samples_agree_with_scikit_learn_and_with_drawing_subsets(tmp_path):
    rng = random.Random(0)
    rows, areas, curves = [], [], []
    for k in range(12):
        right = [True, False, *(rng.random() < 0.5 for _ in range(4))]
        proxy = [rng.randrange(4) for _ in right]  # with ties
        rows.append(ppe_correctness(right, proxy, f"p{k}", domain="ifeval"))
        areas.append(roc_auc_score(right, proxy))
        curves.append([share_right(right, proxy, n) for n in range(1, 7)])
    result = scores(run(tmp_path, "ppe-correctness", rows))
    curve = [sum(values) / len(rows) for values in zip(*curves, strict=True)]
    assert result["ROC AUC within prompts"] == pytest.approx(sum(areas) / len(rows))
    assert result["best of K: end"] == pytest.approx(curve[-1])
    assert result["best of K: maximum"] == pytest.approx(max(curve))


def share_right(right, proxy, n):
    """Over all subsets of n samples, the share of right ones among those with the highest score."""
    shares = []
    for subset in combinations(range(len(right)), n):
        top = [k for k in subset if proxy[k] == max(proxy[j] for j in subset)]
        shares.append(sum(right[k] for k in top) / len(top))
    return sum(shares) / len(shares)


def test_ppe_samples_quarantines_and_leaves_out(tmp_path):
    rows = [
        ppe_correctness([True, True], [1, 2]),
        ppe_correctness([True, False], [1, 2], sampled_conflict_pairs=[[0, 5]]),
        ppe_correctness([True, True, False], [1, 2, 0], sampled_conflict_pairs=[[0, 1]]),
        ppe_correctness([True, False], [1, 2, 3]),
        ppe_correctness([True, "maybe"], [1, 2]),
        ppe_correctness([True, False], [2, 1]),
    ]
    result = run(tmp_path, "ppe-correctness", rows)
    assert dict(result.quarantined) == {"bad_pairs": 2, "wrong_count": 1, "bad_label": 1}
    assert result.items == 1
    assert any("1 row left out by the metric" in note for note in result.notes)


PROCESS = [
    processbench("gsm8k-0", [0.9, 0.4, 0.3], 1, "p0"),  # named
    processbench("gsm8k-1", [0.6, 0.2], 0, "p1"),  # another step named
    processbench("gsm8k-2", [0.5, 0.9], -1, "p2"),  # 0.5 is not below 0.5: none named, as it should be
    processbench("math-0", [0.1], 0, "p3"),
    processbench("math-1", [0.9, 0.1], -1, "p4"),
]


def test_processbench(tmp_path):
    result = run(tmp_path, "processbench", PROCESS, StepSource())
    assert scores(result) == pytest.approx(
        {
            "gsm8k": 2 * 0.5 * 1 / (0.5 + 1),
            "math": 0.0,
            "gsm8k: accuracy, error": 0.5,
            "gsm8k: accuracy, correct": 1.0,
            "math: accuracy, error": 1.0,
            "math: accuracy, correct": 0.0,
        }
    )
    assert scores(result)["gsm8k"] == pytest.approx(hmean([0.5, 1.0]))
    assert result.score == pytest.approx(1 / 3)


def test_processbench_takes_the_first_error_that_the_model_names(tmp_path):
    result = run(tmp_path, "processbench", PROCESS[:3], StepSource(called_error=0))
    assert scores(result)["gsm8k: accuracy, error"] == 0.5, "0 is right of the second alone, whatever its steps say"
    assert scores(result)["gsm8k: accuracy, correct"] == 0.0
    none = run(tmp_path, "processbench", PROCESS[:3], StepSource(called_error=-1))
    assert scores(none)["gsm8k: accuracy, correct"] == 1.0


def test_processbench_with_errors_alone_has_no_f1(tmp_path):
    result = run(tmp_path, "processbench", PROCESS[:2], StepSource())
    assert (result.score, scores(result)["gsm8k"], scores(result)["gsm8k: accuracy, error"]) == (None, None, 0.5)
    assert any("gsm8k lacks solutions with an error, or without one" in note for note in result.notes)


def test_processbench_needs_scores_of_steps(tmp_path):
    with pytest.raises(ConfigError, match="needs a process reward model"):
        run(tmp_path, "processbench", PROCESS, BY_FIRST_WORD)


def test_processbench_leaves_out_what_no_step_scores_fit(tmp_path):
    rows = [
        *PROCESS,
        {**processbench("math-9", [], -1), "steps": ["0.1\n\n0.2"]},  # two scores for one step
        processbench("math-8", [1.5], 0),
        processbench("math-7", [float("nan")], 0),
    ]
    result = run(tmp_path, "processbench", rows, StepSource())
    assert (result.items, result.unscored) == (5, 3)
    assert any("No score (step_count): 1 row" in note for note in result.notes)
    assert any("No score (bad_step_scores): 2 rows" in note for note in result.notes)


@pytest.mark.parametrize("label", [2, -2, "third", None, 0.5])
def test_processbench_quarantines_labels_of_no_step(tmp_path, label):
    with pytest.raises(DataError, match="no row has the layout of ProcessBench"):
        run(tmp_path, "processbench", [processbench("math-0", [0.1, 0.2], label)], StepSource())
