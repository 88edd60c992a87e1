"""`rmray evaluate` and `rmray report` on rules and files of scores: what they write and refuse, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmray.cli import main


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [
        {"prompt": f"p{i}", "chosen": "a good answer" * (i % 3 + 1), "rejected": "bad one." * 3, "source": f"s{i % 2}"}
        for i in range(30)
    ]
    return write_rows(tmp_path / "pairs.jsonl", rows)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict, str]:
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    return json.loads(out.splitlines()[-1]), out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    return capsys.readouterr().err


def test_one_models_figures_are_at_the_top(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    result, out = run(capsys, "evaluate", "--rule", "length", "--data", data)
    wanted = "accuracy accuracy_low accuracy_high length_rule_accuracy ties margin ece pairs"
    assert set(wanted.split()) <= set(result)
    assert "models" not in result
    assert result["accuracy"] == result["length_rule_accuracy"] == pytest.approx(2 / 3)
    assert "length (rule-length) on 30 pairs of 30 prompts" in out


def test_models_side_by_side_benchmarks_flaws_and_the_page(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = write_rows(tmp_path / "theirs.jsonl", [{"scores": [i % 4, 1]} for i in range(30)])
    best_of_4 = {
        "id": "1", "prompt": "q", "chosen": ["longest of all"], "rejected": ["a", "bb", "ccc"], "num_correct": 1,
        "num_incorrect": 3, "total_completions": 4, "subset": "Math",
    }  # fmt: skip
    benchmark = write_rows(tmp_path / "rb2.jsonl", [best_of_4])
    more = ["--adversarial", "5", "--benchmark", f"rewardbench2={benchmark}", "--output", str(tmp_path / "out")]
    result, _ = run(capsys, "evaluate", "--rule", "length", "--scores", scores, "--data", data, *more)
    # Files of scores come before rules: the file is the subject.
    assert [m["model_name"] for m in result["models"]] == ["theirs", "length"]
    assert result["comparisons"][0]["pairs"] == 30
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    subject, rule = whole["models"]
    assert (subject["adversarial"], subject["benchmarks"]) == (None, []), "a file knows the scores of its rows alone"
    assert rule["benchmarks"][0]["score"] == 1.0
    padding = [p for p in rule["adversarial"]["perturbations"] if p["name"] == "padding"]
    assert padding[0]["win_rate"] == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "theirs" in page
    assert result["report"] == str(tmp_path / "out" / "report.html")
    assert list((tmp_path / "out" / "plots").glob("*.png"))
    again, _ = run(
        capsys, "report", str(tmp_path / "out" / "evaluation.json"), "--output", str(tmp_path / "again"),
        "--previous", str(tmp_path / "out" / "evaluation.json"),
    )  # fmt: skip
    assert Path(again["report"]).exists()


def test_what_cannot_be_evaluated_is_told(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no model to evaluate" in refused(capsys, "evaluate", "--data", data)
    assert "rules: length, shortness" in refused(capsys, "evaluate", "--rule", "lenght", "--data", data)
    assert "rewardbench" in refused(capsys, "evaluate", "--rule", "length", "--data", data, "--benchmark", "rb=x")
    assert "NAME=FILE" in refused(capsys, "evaluate", "--rule", "length", "--data", data, "--benchmark", "rm-bench")
    assert "no such file" in refused(capsys, "evaluate", "--rule", "length", "--data", "missing.jsonl")
    assert "--url" in refused(capsys, "evaluate", "--rule", "length", "--url", "http://127.0.0.1:1", "--data", data)
    workers = ["--workers", "2", "--adversarial", "5"]
    assert "--workers" in refused(capsys, "evaluate", "--rule", "length", "--data", data, *workers)
    other = write_rows(tmp_path / "evaluation.json", [{"format": 99}])
    assert "not an evaluation of format 1" in refused(capsys, "report", other, "--output", str(tmp_path / "out"))


@pytest.fixture
def outcomes(tmp_path: Path) -> str:
    rows = [{"prompt": f"p{i // 2}", "completion": "so " * (i % 5 + 1), "label": i % 4 == 0} for i in range(40)]
    return write_rows(tmp_path / "outcomes.jsonl", [*rows, {"prompt": "p", "completion": "x", "label": "maybe"}])


def result_row(probs: list[float], **details: object) -> dict:
    mean, least = sum(probs) / len(probs), min(probs)
    told = {"token_scores": probs, "prob_mean": mean, "prob_min": least, "prob_product": least / 2, **details}
    return {"raw": mean, "reward": 0.0, "quantile": 0.5, "model_version": "orm-1", "reference": "r", **told}


def test_outcomes_by_a_file_of_scores_and_its_page(
    outcomes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [{"line": i + 1, "results": [result_row([0.9 - 0.02 * i, 0.8])]} for i in range(39)]
    scores = write_rows(tmp_path / "orm.jsonl", [*results, {"line": 40, "error": "too long"}])
    words = ["evaluate", "--scores", scores, "--data", outcomes, "--records", "outcome", "--train", outcomes]
    result, out = run(capsys, *words, "--output", str(tmp_path / "out"))
    assert (result["records"], result["kind"], result["rows"], result["examples"]) == ("outcome", "recorded", 41, 39)
    assert (result["failed"], result["quarantined"]) == ({"failed": 1}, {"bad_label": 1})
    # Probabilities fall from row to row, and every fourth one is right: 29, 26, 23, ... wrong ones come after it.
    assert result["auc"] == pytest.approx(sum(range(29, 0, -3)) / (10 * 29))
    assert result["auc_low"] < result["auc"] < result["auc_high"]
    assert result["bag_of_words_auc"] is None, "all training prompts are evaluated"
    assert "39 completions of 20 prompts" in out
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert whole["models"][0]["aggregates"]["min"]["auc"] == result["aggregates"]["min"]["auc"]
    assert "AUC of completions beside what needs no model" in (tmp_path / "out" / "report.html").read_text()


def test_steps_by_a_file_of_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"p{i}", "steps": ["one", "two"], "labels": [1, -1 if i % 2 else 1]} for i in range(20)]
    data = write_rows(tmp_path / "steps.jsonl", rows)
    results = [
        {"results": [result_row([0.9, 0.2 if i % 4 else 0.7], step_labels=[1, -1 if i % 4 else 1])]} for i in range(20)
    ]
    scores = write_rows(tmp_path / "prm.jsonl", results)
    result, out = run(capsys, "evaluate", "--scores", scores, "--data", data, "--records", "process")
    assert (result["steps"], result["solutions"], result["step_accuracy"]) == (40, 20, 35 / 40)
    assert (result["error_accuracy"], result["right_accuracy"]) == (1.0, 0.5)
    assert result["first_error_f1"] == pytest.approx(2 / 3)
    assert result["baselines"]["majority_accuracy"] == 0.75
    assert "40 steps of 20 solutions of 20 prompts" in out


def test_what_does_not_go_with_labelled_records_is_told(
    outcomes: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--rule", "length", "--data", outcomes, "--records", "outcome"]
    assert "several models cannot be had on outcome records" in refused(capsys, *words, "--rule", "shortness")
    assert "--workers cannot be had" in refused(capsys, *words, "--workers", "2")
    assert "--adversarial cannot be had" in refused(capsys, *words, "--adversarial", "5")
    assert "the model gives no probability of being right" in refused(capsys, *words)
    assert "none of the columns" in refused(capsys, "evaluate", "--rule", "length", "--data", outcomes)
    assert "Quarantined (missing_field): 30 rows" in refused(capsys, *words[:4], data, *words[5:])
