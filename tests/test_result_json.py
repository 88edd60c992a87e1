"""A result written as JSON is read back as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from rmray.result_json import DETAILS, result_from_json, result_to_json
from rmray.schema import ScoreFailure, ScoreResponse, ScoreResult
from rmray.serving.wire import CompletionResult, to_wire

PLAIN = ScoreResult(raw=0.5, reward=1.25, quantile=0.9, model_version="v", reference="r", num_tokens=7)
DETAILED = replace(
    PLAIN,
    completion_tokens=3,
    truncated=True,
    token_scores=(0.9, 0.5),
    prob_mean=0.7,
    prob_min=0.5,
    prob_product=0.45,
    first_error=-1,
    step_labels=(1, 0),
    member_scores=(1.0, 1.5),
    disagreement=0.25,
)


@pytest.mark.parametrize("result", [PLAIN, DETAILED, ScoreFailure(code="over_length", message="too long")])
def test_what_was_written_is_read(result: ScoreResult | ScoreFailure) -> None:
    assert result_from_json(json.loads(json.dumps(result_to_json(result)))) == result


def test_a_kind_of_model_that_has_no_details_writes_none() -> None:
    assert not {"token_scores", "first_error", "disagreement"} & result_to_json(PLAIN).keys()


@pytest.mark.parametrize("field", ["raw", "reward", "prob_mean", "token_scores"])
def test_a_figure_that_is_not_finite_is_an_error_on_both_sides(field: str) -> None:
    value = (math.nan,) if field == "token_scores" else math.inf
    assert result_to_json(replace(DETAILED, **{field: value}))["error"]["code"] == "non_finite"  # type: ignore[arg-type]
    read = result_from_json(result_to_json(DETAILED) | {field: list(value) if isinstance(value, tuple) else value})
    assert isinstance(read, ScoreFailure)
    assert read.code == "non_finite"


@pytest.mark.parametrize("broken", [{"raw": None}, {"model_version": 3}, {"token_scores": "0.5"}])
def test_a_field_of_another_kind_raises(broken: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        result_from_json(result_to_json(PLAIN) | broken)


def test_the_gateway_passes_every_detail_on() -> None:
    assert set(DETAILS) <= set(CompletionResult.model_fields)
    sent = to_wire("m", [ScoreResponse(results=(DETAILED,))]).model_dump()["results"][0]["completions"][0]
    assert result_from_json(sent) == DETAILED
