"""What bundles of outcome and process models are asked and give: what their suites share."""

from __future__ import annotations

from pathlib import Path

from rmray.models.bundle import load_bundle
from rmray.models.scorer import score_requests
from rmray.schema import ScoreRequest, ScoreResult, Steps

KINDS = {"outcome": "tokens", "process": "steps"}
PROMPT = "Question: what is two plus three? "
STEPS = Steps(("Two is a number.", "So is three.", "It is five."))
SOLUTIONS = [
    ScoreRequest(
        prompt=f"Question: what is {a} plus three? ", completions=(Steps((f"It is {a}.", "So five.")), f"{a + 3}.")
    )
    for a in range(12)
]


def results_of(bundle: Path, *requests: ScoreRequest) -> list[ScoreResult]:
    scorer = load_bundle(bundle)
    results = [r for response in score_requests(scorer, requests) for r in response.results]
    assert all(isinstance(r, ScoreResult) for r in results), results
    return results
