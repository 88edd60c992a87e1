"""The HTTP side against its own OpenAPI description: what fits it is answered, and every answer is one it tells of."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rmray.schema import TokenIds
from rmray.serving.http import ApiKeys, build_http_app
from tests.fakes import ArithmeticScorer
from tests.serving.test_http import Backend, served

KEY = "0123456789abcdef"


class AnyIds(ArithmeticScorer):
    """Takes every token id; the fake's own characters end at 0x10ffff."""

    def _encode(self, request):
        if isinstance(request.prompt, TokenIds) or any(isinstance(c, TokenIds) for c in request.completions):
            request = replace(request, prompt="p", completions=("x",) * len(request.completions))
        return super()._encode(request)


APP: Any = build_http_app(Backend(AnyIds(max_length=100), models=[served("a"), served("b")]), keys=ApiKeys([KEY]))
DESCRIPTION = APP.openapi()
ROUTES = [(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods]


def fits(schema: Any, value: Any) -> bool:
    return bool(Draft202012Validator({**schema, "components": DESCRIPTION["components"]}).is_valid(value))


def values_of(schema: Any) -> st.SearchStrategy[Any]:
    """Values that fit a schema, of the few keywords that the description uses; another one is an error."""
    if "$ref" in schema:
        return st.deferred(lambda: values_of(DESCRIPTION["components"]["schemas"][schema["$ref"].rpartition("/")[2]]))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return st.one_of(*map(values_of, schema[choice]))
    known = {"title", "description", "default", "type", *TYPES.get(schema["type"], ((), None))[0]}
    assert set(schema) <= known, f"{set(schema) - known} of a {schema['type']} is not known here"
    return TYPES[schema["type"]][1](schema)


def _object(schema: Any) -> st.SearchStrategy[Any]:
    named = {name: values_of(s) for name, s in schema.get("properties", {}).items()}
    needed = {name: named.pop(name) for name in schema.get("required", ())}
    whole = st.fixed_dictionaries(needed, optional=named)
    if not schema.get("additionalProperties"):
        return whole
    more = st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=2)
    return st.builds(lambda extra, known: {**extra, **known}, more, whole)


def _array(schema: Any) -> st.SearchStrategy[Any]:
    # At least one: an empty list is one of messages and one of token ids, which `oneOf` refuses.
    return st.lists(values_of(schema["items"]), min_size=1, max_size=min(3, schema.get("maxItems", 3)))


def _integer(schema: Any) -> st.SearchStrategy[int]:
    return st.integers(int(schema["minimum"]), int(schema["exclusiveMaximum"]) - 1)


TYPES: dict[str, Any] = {
    "object": (("properties", "required", "additionalProperties"), _object),
    "array": (("items", "minItems", "maxItems"), _array),
    "string": (("maxLength",), lambda s: st.text(max_size=min(12, s.get("maxLength", 12)))),
    "boolean": ((), lambda s: st.booleans()),
    "null": ((), lambda s: st.none()),
    "integer": (("minimum", "exclusiveMaximum"), _integer),
    "number": (("exclusiveMinimum", "maximum"), lambda s: st.floats(0.5, s["maximum"])),
}
BODY = values_of({"$ref": "#/components/schemas/RewardsRequest"})
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def ask():
    """ask(method, path, **options): the answer, checked against the description."""
    with asyncio.Runner() as runner:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app=APP), base_url="http://test")

        def ask(method: str, path: str, key: str = KEY, headers: Any = (), **options: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **dict(headers)}
            answer = runner.run(client.request(method, path, headers=headers, **options))
            told = DESCRIPTION["paths"][path][method]["responses"]
            assert str(answer.status_code) in told, answer.text
            assert fits(told[str(answer.status_code)]["content"]["application/json"]["schema"], answer.json())
            assert answer.headers["x-request-id"]
            return answer

        yield ask
        runner.run(client.aclose())


def send(ask: Any, body: Any) -> httpx.Response:
    answer: httpx.Response = ask("post", "/v1/rewards", content=json.dumps(body).encode())
    return answer


def named(body: Any) -> Any:
    """The body for a model that is there; as it came it nearly never names one."""
    return {**body, "model": "a"}


@settings(max_examples=50)
@given(BODY)
def test_what_fits_the_description_is_answered_item_by_item(ask: Any, body: Any) -> None:
    assert fits({"$ref": "#/components/schemas/RewardsRequest"}, body)
    answer = send(ask, named(body))
    told = [len(i["completions"]) for i in body["items"]]
    whole = all(not i.get("finished") or len(i["finished"]) == k for i, k in zip(body["items"], told, strict=True))
    if not whole:  # the one rule that a schema cannot say
        assert answer.json()["error"]["code"] == "invalid_request"
        return
    assert answer.status_code in (200, 422)
    assert [len(r["completions"]) for r in answer.json()["results"]] == told
    for result in (c for r in answer.json()["results"] for c in r["completions"]):
        assert ("error" in result) != ("reward" in result)


@settings(max_examples=20)
@given(BODY)
def test_a_model_that_is_not_there_is_404_or_asked_for(ask: Any, body: Any) -> None:
    answer = send(ask, body)
    assert answer.status_code in (404, 422) or body.get("model") in ("a", "b")


@settings(max_examples=100)
@given(BODY, ANYTHING, st.randoms(use_true_random=False))
def test_what_breaks_the_description_is_the_requests_fault(ask: Any, body: Any, odd: Any, rng: Any) -> None:
    broken = named(body)
    place, key = broken, rng.choice(sorted(broken))
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
        place = place[key]
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
    place[key] = odd
    answer = send(ask, broken)
    assert answer.status_code in (200, 404, 422)
    if not fits({"$ref": "#/components/schemas/RewardsRequest"}, broken):
        assert answer.status_code == 422 or odd == []  # an empty list is blank, see `_array`


@settings(max_examples=50)
@given(st.one_of(st.binary(max_size=50), ANYTHING.map(lambda x: json.dumps(x).encode())), st.text("a/j;=s", max_size=9))
def test_bytes_that_are_no_request_are_the_requests_fault(ask: Any, content: bytes, kind: str) -> None:
    assert ask("post", "/v1/rewards", content=content, headers={"content-type": kind}).status_code in (400, 422)
    assert ask("post", "/v1/rewards", content=content).status_code in (400, 422)


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_every_fault_that_is_told_of_has_a_code_and_a_message(path: str, method: str) -> None:
    for status, told in DESCRIPTION["paths"][path][method]["responses"].items():
        schema = told["content"]["application/json"]["schema"]
        assert fits(schema, {"error": {"code": "c", "message": "m"}}) or status == "200"
        assert not fits(schema, {})


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_every_route_says_401_where_it_asks_for_a_key(ask: Any, path: str, method: str) -> None:
    asks = "security" in DESCRIPTION["paths"][path][method]
    assert (ask(method, path, key="wrong").status_code == 401) == asks
    assert asks == path.startswith("/v1/")


@pytest.mark.parametrize(("path", "method"), ROUTES)
@pytest.mark.parametrize("other", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(path: str, method: str, other: str) -> None:
    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=APP), base_url="http://test") as client:
            return await client.request(other, path, headers={"authorization": f"Bearer {KEY}"})

    if other.lower() != method:
        answer = asyncio.run(main())
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
