"""The HTTP side over a backend in the process: shapes, 422 with paths, errors per item, 404, 413, readiness."""

import asyncio
import json
import re
from dataclasses import replace

import httpx
import pytest

from rmray.config.serve import ServedModel
from rmray.errors import RequestError
from rmray.models.scorer import score_requests
from rmray.schema import ScoreFailure, ScoreResponse
from rmray.serving.http import HttpLimits, build_http_app
from tests.fakes import ArithmeticScorer


def served(name="helpful", version="v1"):
    return ServedModel(
        name=name,
        app=f"{name}-{version}",
        kind="scalar",
        model_version=version,
        reference="ref",
        tokenizer_hash="hash",
        max_length=100,
    )


class Backend:
    def __init__(self, scorer=None, models=None):
        self.scorer, self.served, self.seen = (
            scorer or ArithmeticScorer(max_length=100),
            [served()] if models is None else models,
            [],
        )

    async def models(self):
        return self.served

    async def score(self, model, requests, *, timeout_s):
        self.seen += requests
        return score_requests(self.scorer, requests)


class Asked(Backend):
    """Keeps the models that were asked; each answers as its own version."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []

    async def score(self, model, requests, *, timeout_s):
        self.asked.append(model)
        self.scorer = ArithmeticScorer(max_length=100, version=model.model_version)
        return await super().score(model, requests, timeout_s=timeout_s)


class Refusing(Backend):
    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    async def score(self, model, requests, *, timeout_s):
        if isinstance(self.failure, Exception):
            raise self.failure
        return [ScoreResponse(results=(self.failure,) * len(r.completions), id=r.id) for r in requests]


def call(backend, method, path, **options):
    async def main():
        transport = httpx.ASGITransport(app=build_http_app(backend, limits=HttpLimits(max_body_bytes=20_000)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(main())


def post(body, backend=None, **options):
    return call(backend or Backend(), "POST", "/v1/rewards", json=body, **options)


def test_scores_of_a_group():
    answer = post({"model": "helpful", "items": [{"id": "a", "prompt": "p", "completions": ["x", "xyz"]}]})
    assert answer.status_code == 200
    assert answer.json() == {
        "model": "helpful",
        "results": [
            {
                "id": "a",
                "completions": [
                    {
                        "reward": n,
                        "quantile": 0.5,
                        "raw": n,
                        "model_version": "fake-1",
                        "reference": "fake-reference",
                        "num_tokens": 1,
                        "truncated": False,
                    }
                    for n in (1.0, 3.0)
                ],
            }
        ],
    }


def test_what_reaches_the_scorer_is_what_was_sent():
    backend = Backend()
    tools = [{"type": "function", "function": {"name": "f"}}]
    item = {
        "id": "i",
        "prompt": [{"role": "user", "content": "hi", "name": "bo"}],
        "completions": ["a", [{"role": "assistant", "content": "b"}], "c"],
        "finished": [True, False, True],
        "tools": tools,
        "truncate": True,
    }
    ids = {"prompt": [1, 2], "completions": [[3], [4, 5]], "tokenizer_hash": "hash"}
    post({"items": [item, ids]}, backend)
    first, second = backend.seen
    assert first.prompt == ({"role": "user", "content": "hi", "name": "bo"},)
    assert first.completions == ("a", ({"role": "assistant", "content": "b"},), "c")
    assert (first.finished, first.truncate, first.id) == ((True, False, True), True, "i")
    assert first.tools == tuple(tools)
    assert (second.prompt.ids, [c.ids for c in second.completions]) == ((1, 2), [(3,), (4, 5)])
    assert (second.tokenizer_hash, second.finished) == ("hash", (True, True))


GOOD = {"prompt": "p", "completions": ["a"]}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ([], "body", "valid dictionary"),
        ({}, "items", "required"),
        ({"items": []}, "items", "at least 1"),
        ({"items": [GOOD], "modle": "x"}, "modle", "not permitted"),
        ({"items": [GOOD, {"prompt": "p"}]}, "items[1].completions", "required"),
        ({"items": [{"prompt": "p", "completions": []}]}, "items[0].completions", "at least 1"),
        (
            {"items": [{"prompt": 7, "completions": ["a"]}]},
            "items[0].prompt",
            "must be text, a list of messages, of token ids",
        ),
        ({"items": [{"prompt": "p", "completions": [None]}]}, "items[0].completions[0]", "text, a list of messages"),
        ({"items": [{"prompt": [1, "x"], "completions": ["a"]}]}, "items[0].prompt[1]", "valid integer"),
        ({"items": [{"prompt": [1, True], "completions": ["a"]}]}, "items[0].prompt[1]", "valid integer"),
        ({"items": [{"prompt": [-1], "completions": ["a"]}]}, "items[0].prompt[0]", "greater than or equal to 0"),
        ({"items": [{"prompt": [{"content": "a"}], "completions": ["a"]}]}, "items[0].prompt[0].role", "required"),
        (
            {"items": [{"prompt": [{"role": "user", "content": 3}], "completions": ["a"]}]},
            "items[0].prompt[0].content",
            "valid",
        ),
        ({"items": [{**GOOD, "finished": [True, False]}]}, "items[0]", "1 completions but 2 `finished`"),
        ({"items": [{**GOOD, "finished": ["yes"]}]}, "items[0].finished[0]", "valid boolean"),
        ({"items": [{**GOOD, "finnished": [True]}]}, "items[0].finnished", "not permitted"),
        ({"items": [GOOD], "timeout_s": 0}, "timeout_s", "greater than 0"),
        ({"items": [{"prompt": "p", "completions": ["a"] * 257}]}, "items[0].completions", "at most 256"),
    ],
)
def test_a_wrong_body_is_422_with_the_fields_path(body, field, message):
    answer = post(body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid_request"
    assert field in [f["field"] for f in error["fields"]]
    assert message in next(f["message"] for f in error["fields"] if f["field"] == field)


def test_the_text_of_a_bad_request_is_not_sent_back():
    answer = post({"items": [{"prompt": ["secret"], "completions": ["secret"], "finished": "secret"}]})
    assert answer.status_code == 422
    assert "secret" not in answer.text


@pytest.mark.parametrize("content", [b"{not json", b"", b"\xff\xfe", b"[" * 9000])
def test_what_is_not_json_is_a_clean_4xx(content):
    answer = call(Backend(), "POST", "/v1/rewards", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] in ("invalid_request", "bad_request")


def test_a_lone_surrogate_is_422():
    content = json.dumps({"items": [{"prompt": "p", "completions": ["\ud800"]}]}).encode()
    answer = call(Backend(), "POST", "/v1/rewards", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["fields"][0]["field"] == "items[0].completions[0]"


def test_one_bad_item_among_many_has_its_own_error_and_order_is_kept():
    items = [
        GOOD,
        {"id": "role", "prompt": [{"role": "wizard", "content": "x"}], "completions": ["a", "b"]},
        {"id": "long", "prompt": "p", "completions": ["a" * 200, "bb", ""]},
        {"prompt": "p", "completions": ["ccc"]},
    ]
    answer = post({"items": items})
    assert answer.status_code == 200
    got = [[c.get("raw", c.get("error", {}).get("code")) for c in r["completions"]] for r in answer.json()["results"]]
    assert got == [[1.0], ["unknown_role", "unknown_role"], ["over_length", 2.0, "blank_completion"], [3.0]]
    assert [r.get("id") for r in answer.json()["results"]] == [None, "role", "long", None]
    assert "error" not in answer.json()


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"prompt": "p", "completions": ["a" * 200]}, "over_length"),
        ({"prompt": "p", "completions": [""]}, "blank_completion"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "completions": ["a"]}, "assistant_first"),
    ],
)
def test_where_nothing_can_be_scored_it_is_422_and_says_why(item, code):
    answer = post({"items": [item]})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == code
    assert answer.json()["results"][0]["completions"][0]["error"]["code"] == code


def test_a_score_that_is_not_finite_never_becomes_json():
    class Leaky(ArithmeticScorer):
        def decode(self, encoded, raw):
            first, *others = super().decode(encoded, raw).results
            return ScoreResponse(results=(replace(first, raw=float("nan")), *others))

    answer = post({"items": [{"prompt": "p", "completions": ["a", "bb"]}]}, Backend(Leaky()))
    first, second = answer.json()["results"][0]["completions"]
    assert (first["error"]["code"], second["raw"]) == ("non_finite", 2.0)
    assert not re.search("nan", answer.text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        (ScoreFailure(code="overloaded", message="", retry_after_s=2.3), 503, "3"),
        (ScoreFailure(code="deadline", message=""), 504, None),
        (ScoreFailure(code="forward_failed", message=""), 500, None),
        (RequestError("replica_lost", "gone"), 503, "1"),
        (RequestError("deadline", "late"), 504, None),
        (ZeroDivisionError("the secret text"), 500, None),
    ],
)
def test_failures_of_the_backend_have_their_status(failure, status, retry_after):
    answer = post({"items": [GOOD]}, Refusing(failure))
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == retry_after
    assert answer.json()["error"]["code"] == getattr(failure, "code", "internal")
    assert "secret" not in answer.text


def test_an_unknown_model_is_404_with_the_names():
    answer = post({"model": "x", "items": [GOOD]}, Backend(models=[served("b"), served("a")]))
    assert answer.status_code == 404
    assert "served: a, b" in answer.json()["error"]["message"]


def test_a_version_can_be_asked_for_by_its_hash():
    shared = replace(served(version="v1"), canary=served(version="v2"), share=0.25)
    backend = Asked(models=[shared])
    for model, app in (("helpful", "helpful-v1"), ("helpful@v1", "helpful-v1"), ("helpful@v2", "helpful-v2")):
        assert post({"model": model, "items": [GOOD]}, backend).status_code == 200
        assert backend.asked[-1].app == app
    assert [asked.share for asked in backend.asked if asked.canary] == [0.25], "only the bare name is drawn for"
    gone = post({"model": "helpful@v0", "items": [GOOD]}, backend)
    assert (gone.status_code, gone.json()["error"]["code"]) == (503, "stale")
    (card,) = call(backend, "GET", "/v1/models").json()["data"]
    assert card["canary"] == {"model_version": "v2", "share": 0.25}


def test_a_version_that_goes_away_under_the_call_is_not_answered_by_another():
    # The backend asks the name again where an app has gone: by then v2 answers.
    backend = Backend(ArithmeticScorer(version="v2"), models=[served(version="v1")])
    pinned = post({"model": "helpful@v1", "items": [GOOD]}, backend)
    assert (pinned.status_code, pinned.json()["error"]["code"]) == (503, "stale")
    assert post({"model": "helpful", "items": [GOOD]}, backend).status_code == 200


def test_the_name_may_be_left_out_where_one_model_is_served():
    assert post({"items": [GOOD]}).json()["model"] == "helpful"
    assert post({"items": [GOOD]}, Backend(models=[served("b"), served("a")])).status_code == 422
    assert post({"items": [GOOD]}, Backend(models=[])).status_code == 503


def test_a_body_over_the_limit_is_413_by_its_length_and_while_it_comes_in():
    big = {"items": [{"prompt": "p" * 30_000, "completions": ["a"]}]}
    assert post(big).status_code == 413

    async def parts():
        for _ in range(30):
            yield b" " * 1000

    answer = call(Backend(), "POST", "/v1/rewards", content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_health_readiness_and_models():
    assert call(Backend(models=[]), "GET", "/healthz").status_code == 200
    assert call(Backend(models=[]), "GET", "/readyz").status_code == 503
    assert call(Backend(), "GET", "/readyz").json() == {"status": "ready"}
    card = {"id": "helpful", "kind": "scalar", "model_version": "v1", "reference": "ref"}
    assert call(Backend(), "GET", "/v1/models").json() == {
        "data": [{**card, "tokenizer_hash": "hash", "max_length": 100}]
    }
    assert call(Backend(), "GET", "/nothing").json()["error"]["code"] == "not_found"


def test_the_openapi_description_names_the_routes():
    paths = call(Backend(), "GET", "/openapi.json").json()["paths"]
    assert {"/v1/rewards", "/v1/models", "/healthz", "/readyz"} <= set(paths)
