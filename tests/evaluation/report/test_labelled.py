"""The page of outcome and process models: their own parts, harmless texts, and a sentence where nothing is drawn."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmray.evaluation.report import build_page, write_plots
from rmray.evaluation.report.page import sections_of
from tests.evaluation.labelled.examples import evaluated, outcome, process
from tests.evaluation.report import evaluations as ev
from tests.evaluation.report import odd_evaluations as odd
from tests.evaluation.report.pages import Page

ORDER = ["headline", "notes", "comparison", "training", "probabilities", "calibration", "aggregates", "benchmarks",
         "errors", "quarantine", "facts"]  # fmt: skip


@cache
def evaluation(kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    probs = rng.random((40, 3)).round(2)
    if kind == "outcome":
        records = [
            outcome(f"{p[0]} {p[1]} done", bool(p[0] + p[1] + rng.normal() > 1), f"p{i}") for i, p in enumerate(probs)
        ]
    else:
        labels = np.where(probs + rng.normal(size=probs.shape) / 3 > 0.3, 1, -1)
        records = [
            process([f"{p} step <b>{s}</b>" for s, p in enumerate(row)], labels[i].tolist(), f"p{i}")
            for i, row in enumerate(probs)
        ]
    return ev.evaluation({**evaluated(records).to_json(), "adversarial": None, "benchmarks": []})


def test_the_page_has_its_own_parts_in_order() -> None:
    page = Page(build_page(evaluation("outcome"), previous=[evaluation("outcome"), ev.evaluation(ev.model())]))
    assert [name for name in page.ids() if name in ORDER] == ORDER
    assert not page.problems
    assert not page.loads
    assert "AUC of completions beside what needs no model" in page.text
    assert "This evaluation, the last, and earlier ones" in page.text
    assert "1 earlier evaluation of other records: not shown." in page.text
    assert "Labelled right, probability 0." in page.section("The worst errors")
    assert "40 rows = 40 scored + 0 without a score + 0 quarantined" in page.text
    assert "Accuracy by which side is longer" not in page.text


def test_steps_are_shown_with_their_labels_and_tints() -> None:
    page = Page(build_page(evaluation("process")))
    assert not page.problems
    assert "F1 of the first error" in page.text
    assert "120 steps of 40 solutions of 40 prompts" in page.text
    errors = page.section("The worst errors")
    assert "called in step" in errors
    assert "(wrong) 0." in errors
    assert "step <b>1</b>" in errors, "a step's text is text"
    assert "Probability of being right of each step" in errors


def test_a_page_of_comparisons_says_what_it_does_not_show() -> None:
    page = Page(build_page(ev.evaluation(ev.model()), previous=[evaluation("process")]))
    assert "1 earlier evaluation of labelled records: not shown." in page.text


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_figures_that_are_absent_leave_sentences(kind: str) -> None:
    for values in ({}, {**odd.everything_null(), "worst": [{"steps": [None, [1]]}, {"completion": None}]}):
        page = Page(build_page(ev.evaluation({**values, "records": kind})))
        assert not page.problems
        assert "there is nothing to tell apart" in page.text


def test_charts_are_written_as_pictures(tmp_path: Path) -> None:
    write_plots(tmp_path, evaluation("process"))
    names = {chart.name for section in sections_of(evaluation("process")) for chart in section.charts()}
    assert names == {"auc", "probabilities", "reliability", "aggregates"}
    assert {path.stem for path in tmp_path.glob("*.png")} >= names
