"""An ensemble's members in an evaluation: figures by hand, merged logs, the table and the page."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from rmray.evaluation.report.page import build_page
from rmray.evaluation.run import evaluate, score_records, side_by_side
from rmray.evaluation.source import ScorerSource
from rmray.evaluation.table import print_evaluation
from rmray.models.combine import Combination
from rmray.models.ensemble import EnsembleScorer
from rmray.models.reward import UNNORMALISED, Unfinished
from rmray.models.scorer import ScorerInfo
from rmray.schema import Comparison
from tests.evaluation.report import evaluations as ev
from tests.fakes import ArithmeticScorer

INFO = ScorerInfo("three", "ensemble", "v", "fake-reference", "fake-tokenizer", 1000)


def word(place: int):
    """A member whose reward is a completion's word at `place`."""
    return lambda prompt, completion: float(completion.split()[place])


def ensemble(num_members: int = 3) -> EnsembleScorer:
    return EnsembleScorer(
        [ArithmeticScorer(word(m)) for m in range(num_members)],
        references=[UNNORMALISED] * num_members,
        combination=Combination(),
        info=INFO,
        reference=UNNORMALISED,
        unfinished=Unfinished(),
    )


def records(*gaps: tuple[float, ...]):
    """A pair for each row of members' gaps: the chosen side has these rewards, the rejected zeros."""
    return [
        (
            f"file:{i}",
            i,
            Comparison(
                prompt=f"p{i}",
                completions=(" ".join(map(str, row)), " ".join("0" for _ in row)),
                ranks=(0, 1),
            ),
        )
        for i, row in enumerate(gaps)
    ]


# Members agree on what is won (spread 0) and disagree on what is lost.
RIGHT, WRONG = (1.0, 1.0, 1.0), (1.0, -2.0, -2.0)
SEPARATED = records(*[RIGHT, WRONG] * 8)


def figures_of(rows) -> dict:
    out = evaluate(ScorerSource(ensemble()), rows).to_json()
    return json.loads(json.dumps(out, allow_nan=False))["disagreement"]


def test_disagreement_that_marks_every_error() -> None:
    found = figures_of(SEPARATED)
    assert (found["pairs"], found["errors"], found["auroc"]) == (16, 8, 1.0)
    assert (found["auroc_low"], found["auroc_high"]) == (1.0, 1.0)
    assert found["mean"] == pytest.approx(2**0.5 / 2)  # half of them have the std of 1, -2, -2
    assert [member["accuracy"] for member in found["members"]] == [1.0, 0.5, 0.5]
    assert found["ensemble"]["accuracy"] == 0.5
    assert [(part["pairs"], part["accuracy"]) for part in found["quartiles"]] == [(8, 1.0), (8, 0.0)]


def test_quartiles_are_of_pairs_by_their_disagreement() -> None:
    # Disagreement grows with i; the last quarter is lost.
    found = figures_of(records(*[(0.1 * i + (1 if i < 12 else -5), -0.1 * i, 0.0) for i in range(16)]))
    assert [(part["pairs"], part["accuracy"]) for part in found["quartiles"]] == [(4, 1.0)] * 3 + [(4, 0.0)]


def test_a_disagreement_that_is_the_same_throughout_says_nothing() -> None:
    found = figures_of(records(*[(3.0, 1.0, 2.0), (-1.0, -3.0, -2.0)] * 4))
    assert (found["auroc"], found["errors"], len(found["quartiles"])) == (0.5, 4, 1)


@pytest.mark.parametrize(("row", "errors"), [(RIGHT, 0), (WRONG, 6)])
def test_no_auroc_without_errors_or_with_errors_alone(row: tuple[float, ...], errors: int) -> None:
    found = figures_of(records(*[row] * 6))
    assert (found["errors"], found["auroc"], found["auroc_low"]) == (errors, None, None)


def test_a_tie_is_no_win() -> None:
    assert figures_of(records((1.0, -1.0, 0.0), RIGHT))["errors"] == 1


def test_other_models_have_none() -> None:
    rows = records(RIGHT, WRONG)
    assert evaluate(ScorerSource(ArithmeticScorer(word(0))), rows).to_json()["disagreement"] is None


def test_logs_of_parts_merge_and_a_source_that_tells_some_members_alone_has_none() -> None:
    [whole] = score_records([ScorerSource(ensemble())], SEPARATED)
    parts = [score_records([ScorerSource(ensemble())], rows)[0] for rows in ([], SEPARATED[:5], SEPARATED[5:])]
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert merged.columns().members_CM.tolist() == whole.columns().members_CM.tolist()
    for other in (ArithmeticScorer(word(0)), ensemble(2)):
        [log] = score_records([ScorerSource(other)], SEPARATED[:3])
        log.merge(whole)
        log.merge(whole)
        assert log.columns().members_CM.shape == (6 + 2 * 32, 0)


def test_the_table_and_the_page_show_it() -> None:
    [log] = score_records([ScorerSource(ensemble())], SEPARATED)
    evaluations = side_by_side([INFO], [log])
    out = io.StringIO()
    print_evaluation(evaluations.models[0], Console(file=out, width=140))
    lines = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if line.count("│") > 3}
    assert "mean accuracy of 3, from 0.500 to 1.000" in lines["members alone"]
    assert "1.000 to 1.000" in lines["disagreement"]
    assert "least first: 1.000 0.000" in lines["where members agree"]
    page = build_page(evaluations.to_json())
    assert "Members and disagreement" in page
    assert "member 2" in page
    assert "8 of 16 pairs are lost" in page
    without = replace(evaluations.models[0], details={**evaluations.models[0].details, "disagreement": None})
    assert "Members and disagreement" not in build_page(replace(evaluations, models=(without,)).to_json())


def test_a_page_of_odd_figures_is_made() -> None:
    model = {**ev.model(), "disagreement": {"members": [{"member": 0, "accuracy": 0.5}, {"accuracy": None}, 3]}}
    assert "no parts to compare" in build_page(ev.evaluation(model))
