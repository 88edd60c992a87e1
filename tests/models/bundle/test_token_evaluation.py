"""Evaluating outcome and process models: on records of their own, on comparisons, on ProcessBench, and a run's page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmray.cli import main
from rmray.data.sources import read_records
from rmray.evaluation.score_file import score_file
from rmray.evaluation_file import load_evaluation
from rmray.metrics.outcome import outcome_metrics
from rmray.schema import ScoreRequest, Steps
from rmray.training.report import report_run
from tests.data.prepared_sets import random_rows, write_prepared
from tests.models.bundle.token_requests import PROMPT, results_of
from tests.training.runs import make_job


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["evaluate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_an_outcome_model_is_evaluated_on_outcomes_and_on_comparisons(
    token_bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": f"Question: what is {a} plus three? ", "completion": text, "label": text.startswith("A")}
        for a in range(8)
        for text in (f"Answer: {a + 3}.", "I do not know it.")
    ]
    data, bundle = write_rows(tmp_path / "outcomes.jsonl", rows), str(token_bundles["outcome"])
    result = evaluated(capsys, "--bundle", bundle, "--data", data)
    requests = [ScoreRequest(prompt=row["prompt"], completions=(row["completion"],)) for row in rows]
    figures = outcome_metrics(
        [r.prob_mean for r in results_of(token_bundles["outcome"], *requests)],
        [row["label"] for row in rows],
        [row["prompt"] for row in rows],
    )
    assert (result["records"], result["kind"], result["examples"], result["prompts"]) == ("outcome", "outcome", 16, 8)
    for name in ("auc", "accuracy", "ece", "brier"):
        assert result[name] == pytest.approx(getattr(figures, name), abs=1e-5), name
    # The same from a file of scores, as `rmray score` writes it.
    score_file(bundle, data, tmp_path / "out")
    recorded = evaluated(
        capsys, "--scores", str(tmp_path / "out" / "scores.jsonl"), "--data", data, "--records", "outcome"
    )
    assert {k: v for k, v in recorded.items() if k not in ("kind", "model_name")} == {
        k: v for k, v in result.items() if k not in ("kind", "model_name")
    }
    pairs = [{"prompt": PROMPT, "chosen": "Five.", "rejected": f"It is {a}."} for a in range(4)]
    compared = evaluated(
        capsys, "--bundle", bundle, "--data", write_rows(tmp_path / "pairs.jsonl", pairs), "--records", "comparisons"
    )
    assert (compared["pairs"], compared["comparisons"]) == (4, 4)
    for more in (["--workers", "2"], ["--adversarial", "3"], ["--bundle", bundle]):
        assert main(["evaluate", "--bundle", bundle, "--data", data, *more]) == 2
        assert "cannot be had on outcome records" in capsys.readouterr().err


def test_a_process_model_is_evaluated_on_steps_and_on_processbench(
    token_bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "prompt": f"What is {a} plus 3? ",
            "steps": [f"It is {a}.", "So\n\nit is five."],
            "labels": [1, 1 - 2 * (a % 2)],
        }
        for a in range(6)
    ]
    problems = [
        {"id": f"math-{a}", "problem": row["prompt"], "steps": row["steps"], "label": -1 if a % 2 == 0 else 1}
        for a, row in enumerate(rows)
    ]
    data, benchmark = write_rows(tmp_path / "steps.jsonl", rows), write_rows(tmp_path / "math.jsonl", problems)
    result = evaluated(
        capsys, "--bundle", str(token_bundles["process"]), "--data", data, "--benchmark", f"processbench={benchmark}"
    )
    requests = [ScoreRequest(prompt=row["prompt"], completions=(Steps(tuple(row["steps"])),)) for row in rows]
    scored = results_of(token_bundles["process"], *requests)
    labels = [row["labels"] for row in rows]
    hits = [c == y for r, told in zip(scored, labels, strict=True) for c, y in zip(r.step_labels, told, strict=True)]
    assert (result["records"], result["steps"], result["solutions"]) == ("process", 12, 6)
    assert result["step_accuracy"] == pytest.approx(np.mean(hits))
    errors = [r.first_error for r in scored]
    assert result["error_accuracy"] == pytest.approx(np.mean([e == 1 for e in errors[1::2]]))
    assert result["right_accuracy"] == pytest.approx(np.mean([e == -1 for e in errors[::2]]))
    [found] = result["benchmarks"]
    assert (found["items"], found["unscored"]) == (6, 0), "a step may hold what separates steps of other models"


def test_a_finished_run_has_a_page_of_its_own_records(
    token_bundles: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"What is {a} plus 3? ", "steps": [f"It is {a}.", "So five."], "labels": [1, 1 - 2 * (a % 2)]}
        for a in range(6)
    ]
    data = write_rows(tmp_path / "steps.jsonl", rows)
    write_prepared(tmp_path / "prepared", random_rows(4), eval_rows=random_rows(2))
    objective = {"name": "process", "aggregate": "min"}
    sections = {"data": {"train": [data], "eval": [data], "step_separator": "\n"}, "objective": objective}
    job = make_job(tmp_path / "run", tiny_base, tmp_path / "prepared", **sections)
    shutil.copytree(token_bundles["process"], tmp_path / "run" / "bundle")
    page = report_run(job, [*read_records(data, objective="process")][:4])
    [model] = load_evaluation(tmp_path / "run" / "evaluation.json")["models"]
    assert (model["records"], model["solutions"], model["steps"]) == ("process", 4, 8)
    assert "8 steps of 4 solutions of 4 prompts" in page.read_text()
    assert "held-out process records of steps.jsonl" in page.read_text()
