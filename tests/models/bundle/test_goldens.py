"""The deciders behind the golden check, without a model."""

from __future__ import annotations

import numpy as np
import pytest

from rmray.data.group import group_paths
from rmray.errors import BundleError
from rmray.models.bundle.goldens import (
    LOOSE_MAX,
    LOOSE_MEAN,
    Golden,
    Goldens,
    check_goldens,
    different_ids,
    different_scores,
)
from rmray.models.bundle.make_goldens import tolerance_of
from rmray.models.bundle.reference import hash_of_requests
from rmray.models.bundle.request_json import request_from_json, request_to_json
from rmray.models.scorer import Encoded
from rmray.schema import ScoreFailure, ScoreRequest, TokenIds

EXPECTED = [0.0, 1.0, 2.0, 3.0]


def loose(std: float) -> dict[str, float]:
    """What another precision or device may differ by."""
    return {"max_gap": LOOSE_MAX * std, "mean_gap": LOOSE_MEAN * std}


@pytest.mark.parametrize(
    ("shift", "std", "agrees"),
    [
        ([0.9e-5, 0, 0, 0], None, True),
        ([1.1e-5, 0, 0, 0], None, False),
        ([float("nan"), 0, 0, 0], None, False),
        ([0.09, 0, 0, 0], 1.0, True),  # 0.0225 on average
        ([0.11, 0, 0, 0], 1.0, False),  # one beyond 0.1
        ([0.04, -0.04, 0.04, -0.04], 1.0, False),  # 0.04 on average
        ([0.04, -0.04, 0.04, -0.04], 2.0, True),
        ([0.0, 0.0, 0.0, float("inf")], 1.0, False),
    ],
)
def test_score_tolerances(shift: list[float], std: float | None, agrees: bool) -> None:
    actual = (np.array(EXPECTED) + shift).tolist()
    limits = {"max_gap": 1e-5} if std is None else loose(std)
    assert (different_scores(EXPECTED, actual, **limits) == "") is agrees


def test_what_passes_loosely_keeps_the_order_of_scores_further_apart_than_twice_the_limit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        expected = rng.normal(size=12)
        actual = expected + rng.normal(scale=0.03, size=12)
        if different_scores(expected.tolist(), actual.tolist(), **loose(1.0)):
            continue
        apart = np.subtract.outer(expected, expected) > 0.2
        assert (np.subtract.outer(actual, actual)[apart] > 0).all()


def encoded(paths: list[list[int]], prompt_lens: list[int]) -> Encoded:
    request = ScoreRequest(prompt="p", completions=("c",) * len(paths))
    return Encoded(request, group_paths(paths, prompt_lens), tuple(range(len(paths))), (False,) * len(paths))


@pytest.mark.parametrize(
    ("paths", "prompt_lens", "says"),
    [
        ([[1, 2, 3], [1, 2, 4, 5]], [2, 2], ""),
        ([[1, 2, 3], [1, 2, 4]], [2, 2], "completion 1 has [5] at token 3 in the bundle and [] here"),
        ([[1, 9, 3], [1, 2, 4, 5]], [2, 2], "completion 0 has [2, 3] at token 1 in the bundle and [9, 3] here"),
        ([[1, 2, 3], [1, 2, 4, 5]], [2, 1], "prompts of (2, 2) tokens in the bundle and (2, 1) here"),
    ],
)
def test_ids_are_compared_exactly(paths: list[list[int]], prompt_lens: list[int], says: str) -> None:
    request = ScoreRequest(prompt="p", completions=("c", "c"))
    golden = Golden(request, ((1, 2, 3), (1, 2, 4, 5)), (2, 2), ((0.0,), (0.0,)))
    found = different_ids(golden, encoded(paths, prompt_lens))
    assert found.startswith(says)
    assert bool(found) == bool(says)


def test_golden_that_can_no_longer_be_rendered() -> None:
    class Refusing:
        def encode(self, requests: list[ScoreRequest]) -> list[Encoded]:
            failure = ScoreFailure(code="no_chat_template", message="the tokenizer has none")
            return [Encoded(r, None, (failure,), (False,)) for r in requests]

        def forward(self, batch: object) -> list[object]:
            raise AssertionError("ids are compared first")

    golden = Golden(ScoreRequest(prompt="p", completions=("c",)), ((1, 2),), (1,), ((0.0,),))
    with pytest.raises(BundleError, match="no_chat_template"):
        check_goldens(Goldens((golden,), 1e-5, {}), Refusing(), std=None, where="here")  # type: ignore[arg-type]


def test_tolerance_grows_with_measured_rounding_and_never_hides_a_wrong_pad() -> None:
    alone = [100.0, -50.0]
    assert tolerance_of(alone, {"right": [100.0 + 1e-6, -50.0]}, where="x") == 1e-5
    assert tolerance_of(alone, {"right": alone, "left": [100.0, -50.0 + 1e-3]}, where="x") == pytest.approx(4e-3)
    with pytest.raises(BundleError, match="left padding changes"):
        tolerance_of(alone, {"right": alone, "left": [100.0, -49.9]}, where="x")
    with pytest.raises(BundleError, match="not finite"):
        tolerance_of([float("nan")], {"right": [0.0]}, where="x")


REQUESTS = [
    ScoreRequest(prompt="p", completions=("a", "b"), finished=(True, False), id="1"),
    ScoreRequest(
        prompt=({"role": "user", "content": "é"},),
        completions=(({"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]},),),
        tools=({"name": "f"},),
        truncate=True,
    ),
    ScoreRequest(prompt=TokenIds((1, 2)), completions=(TokenIds((3,)),), tokenizer_hash="abc"),
]


def test_requests_survive_json() -> None:
    import json

    again = [request_from_json(json.loads(json.dumps(request_to_json(r)))) for r in REQUESTS]
    assert again == REQUESTS


def test_reference_hash_is_of_the_content_whatever_its_order() -> None:
    renamed = [ScoreRequest(prompt="p", completions=("a", "b"), finished=(True, False), id="other"), *REQUESTS[1:]]
    assert hash_of_requests(REQUESTS) == hash_of_requests(renamed[::-1])
    assert hash_of_requests(REQUESTS) != hash_of_requests(REQUESTS[:2])
    finished = [ScoreRequest(prompt="p", completions=("a", "b")), *REQUESTS[1:]]
    assert hash_of_requests(REQUESTS) != hash_of_requests(finished)
