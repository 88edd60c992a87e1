"""What every HTTP request passes: a key, bounds on its body and tokens, a request id, a log without texts, an end."""

import asyncio
import hmac
import json
import logging
import pickle

import httpx
import pytest

from rmray.errors import ConfigError
from rmray.serving.engine import ScoringEngine
from rmray.serving.http import ApiKeys, HttpLimits, build_http_app, read_api_keys
from rmray.serving.http import keys as keys_module
from tests.serving.test_engine import GatedScorer, until
from tests.serving.test_http import GOOD, Backend, served

KEY, OTHER_KEY = "0123456789abcdef-one", "0123456789abcdef-two"
ROUTES = [
    ("POST", "/v1/rewards"),
    ("GET", "/v1/models"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
]


def call(method, path, *, backend=None, keys=None, limits=None, **options):
    async def main():
        app = build_http_app(backend or Backend(), keys=keys and ApiKeys(keys), limits=limits)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(main())


def post(body, **options):
    return call("POST", "/v1/rewards", json=body, **options)


# Keys


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ümlaut"],
)
def test_without_a_key_it_is_401_on_every_route_and_nothing_else_is_told(authorization):
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    answers = [
        call(method, path, keys=[KEY, OTHER_KEY], headers=headers, **body)
        for method, path in ROUTES
        if path not in ("/healthz", "/readyz")
        for body in ({}, {"json": {"items": [GOOD]}}, {"json": {"model": "nobody", "items": []}})
    ]
    assert {a.status_code for a in answers} == {401}
    assert len({a.text for a in answers}) == 1
    assert answers[0].json()["error"]["code"] == "unauthorized"
    assert answers[0].headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_each_key_lets_in(key, scheme):
    options = {"keys": [KEY, OTHER_KEY], "headers": {"authorization": f"{scheme} {key}"}}
    assert post({"items": [GOOD]}, **options).status_code == 200
    assert call("GET", "/v1/models", **options).status_code == 200


def test_probes_need_no_key_and_say_yes_or_no_alone():
    for path in ("/healthz", "/readyz"):
        answer = call("GET", path, keys=[KEY])
        assert answer.status_code == 200
        assert "helpful" not in answer.text
    assert call("GET", "/readyz", keys=[KEY], backend=Backend(models=[])).status_code == 503


def test_without_a_key_the_body_is_not_even_measured():
    answer = post({"items": [GOOD]}, keys=[KEY], limits=HttpLimits(max_body_bytes=5))
    assert answer.status_code == 401


def test_every_key_is_compared_in_constant_time_whichever_it_is(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(keys_module, "hmac", type("Spy", (), {"compare_digest": staticmethod(compare)}))
    keys = ApiKeys([KEY, OTHER_KEY, "k" * 99])
    for given, found in ((KEY, True), ("k" * 99, True), ("", False), ("x" * 5000, False)):
        compared.clear()
        assert keys.accept(given) is found
        assert compared == [(32, 32)] * 3


def test_keys_are_read_from_a_file_and_kept_as_hashes(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# of the trainers\n{KEY}\n\n  {OTHER_KEY}  \n")
    keys = read_api_keys(file)
    assert keys.accept(KEY)
    assert keys.accept(OTHER_KEY)
    assert not keys.accept("# of the trainers")
    assert not keys.accept("")
    assert KEY.encode() not in pickle.dumps(keys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no API key"),
        (b"# nothing\n\n", "no API key"),
        (b"hunter2", "keys:1"),
        (f"{KEY}\nwith a blank in the key\n".encode(), "keys:2"),
        ("schlüssel-schlüssel".encode(), "keys:1"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_sound_keys_is_refused_and_no_key_is_told(tmp_path, content, message):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_api_keys(file)
    assert "hunter2" not in str(caught.value)


# Bounds


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_over_the_limit_is_413_on_every_route(method, path):
    answer = call(method, path, content=b" " * 1001, limits=HttpLimits(max_body_bytes=1000))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_body_that_does_not_come_in_is_408():
    async def parts():
        yield b'{"items": '
        await asyncio.Event().wait()

    answer = call("POST", "/v1/rewards", content=parts(), limits=HttpLimits(body_timeout_s=0.02))
    assert answer.status_code == 408
    assert answer.json()["error"]["code"] == "body_too_slow"


def test_tokens_are_counted_over_all_items():
    limits = HttpLimits(max_tokens=20)
    one = {"prompt": list(range(10)), "completions": [[1, 2], [3, 4]]}
    assert post({"items": [one]}, limits=limits).status_code == 200
    assert post({"items": [{"prompt": "p" * 30, "completions": ["c" * 30]}]}, limits=limits).status_code == 200
    for items in ([one, one], [{"prompt": "p" * 30, "completions": ["c" * 33]}]):
        answer = post({"items": items}, limits=limits)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_many_tokens"
        assert "20 are allowed" in answer.json()["error"]["message"]


def test_items_and_completions_are_bounded():
    assert post({"items": [GOOD] * 1025}).status_code == 422
    assert post({"items": [{"prompt": "p", "completions": ["a"] * 257}]}).status_code == 422


# Request ids and the log


class Bug(Backend):
    async def score(self, model, requests, *, timeout_s):
        raise ZeroDivisionError(f"cannot score {requests[0].prompt}")


def every_kind_of_answer(secret, **headers):
    good = {"items": [{"prompt": secret, "completions": [secret, ""]}]}
    limits = HttpLimits(max_body_bytes=1000)
    yield post(good, headers=headers)
    yield post(good, headers=headers, backend=Bug())
    yield post({**good, secret: secret}, headers=headers)
    yield post({"items": [{"prompt": [{"role": secret}], "completions": [secret]}]}, headers=headers)
    yield post(good, headers=headers, keys=[KEY])
    yield post({"items": [{"prompt": secret * 999, "completions": [secret]}]}, headers=headers, limits=limits)
    yield call("GET", f"/{secret}?{secret}={secret}", headers=headers)
    yield call("GET", "/readyz", headers=headers, backend=Backend(models=[]))


def test_every_answer_has_a_request_id():
    answers = list(every_kind_of_answer("text"))
    assert [a.status_code for a in answers] == [200, 500, 422, 422, 401, 413, 404, 503]
    assert len({a.headers["x-request-id"] for a in answers}) == len(answers)
    assert all(len(a.headers["x-request-id"]) == 32 for a in answers)
    given = {a.headers["x-request-id"] for a in every_kind_of_answer("text", **{"x-request-id": "rollout-7:step.3"})}
    assert given == {"rollout-7:step.3"}


def test_every_answer_is_told_by_its_route_and_never_by_a_path_that_a_client_chose():
    told = []

    async def main():
        app = build_http_app(Backend(), on_answer=lambda *answer: told.append(answer))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            await client.post("/v1/rewards", json={"items": [GOOD]})
            await client.post("/v1/rewards", json={})
            await client.get("/a/path/of/ones/own")

    asyncio.run(main())
    assert [answer[:2] for answer in told] == [("/v1/rewards", 200), ("/v1/rewards", 422), ("-", 404)]
    assert all(took_s > 0 for *_, took_s in told)


def test_behind_a_proxy_that_answers_ids_they_stand_in_the_log_alone(caplog):
    async def main():
        app = build_http_app(Backend(), answers_request_id=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            return await client.get("/healthz", headers={"x-request-id": "of-the-proxy"})

    with caplog.at_level(logging.INFO):
        assert "x-request-id" not in asyncio.run(main()).headers
    assert "of-the-proxy GET /healthz 200" in caplog.text


@pytest.mark.parametrize("id", ["", "with blank", "x" * 129, "line\\nbreak", "quote'"])
def test_an_id_that_could_forge_a_log_line_is_replaced(id):
    assert len(post({"items": [GOOD]}, headers={"x-request-id": id}).headers["x-request-id"]) == 32


def test_no_text_gets_into_the_log(caplog):
    with caplog.at_level(logging.DEBUG):
        answers = list(every_kind_of_answer("secrettext", **{"x-request-id": "id-1"}))
    assert not any("secrettext" in r.getMessage() for r in caplog.records if not r.name.startswith("http"))  # our side
    assert "secrettext" not in answers[1].text
    ours = [r.getMessage() for r in caplog.records if r.name == "rmray.serving.http.middleware"]
    assert sum("ZeroDivisionError" in line for line in ours) == 1
    lines = [line for line in ours if line.endswith(" ms")]
    assert [line.split()[:4] for line in lines][:2] == [["id-1", "POST", "/v1/rewards", s] for s in ("200", "500")]
    assert lines[6].startswith("id-1 GET - 404")
    assert len(lines) == 8


# The end of a request


class Hanging(Backend):
    def __init__(self):
        super().__init__()
        self.begun, self.cancelled = asyncio.Event(), False

    async def score(self, model, requests, *, timeout_s):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def test_a_client_that_has_gone_frees_what_it_held():
    async def main():
        backend = Hanging()
        body = [{"type": "http.request", "body": json.dumps({"items": [GOOD]}).encode(), "more_body": False}]
        sent = []

        async def receive():
            if body:
                return body.pop()
            await backend.begun.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/rewards", "query_string": b""}
        scope["headers"] = [(b"content-type", b"application/json")]
        await asyncio.wait_for(build_http_app(backend)(scope, receive, send), 10)
        await asyncio.sleep(0)
        return backend.cancelled, sent[0]["status"]

    assert asyncio.run(main()) == (True, 504)


def test_a_client_that_has_gone_leaves_the_engines_queue():
    class Queue(Backend):
        """Scores with an engine whose device is busy until `gate` is set."""

        def __init__(self, engine):
            super().__init__()
            self.engine = engine

        async def score(self, model, requests, *, timeout_s):
            return await self.engine.score(requests, timeout_s=timeout_s)

    async def main():
        scorer = GatedScorer()
        engine = ScoringEngine(scorer)
        engine.start()
        app = build_http_app(Queue(engine))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            first = asyncio.create_task(client.post("/v1/rewards", json={"items": [GOOD]}))
            await scorer.until_forward()
            body = [{"type": "http.request", "body": json.dumps({"items": [GOOD, GOOD]}).encode()}]

            async def receive():
                if body:
                    return body.pop()
                await until(lambda: engine.num_waiting == 2)
                return {"type": "http.disconnect"}

            async def send(_):
                pass

            scope = {"type": "http", "method": "POST", "path": "/v1/rewards", "query_string": b""}
            await app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)
            await until(lambda: engine.num_waiting == 0)
            tokens = engine.queued_tokens
            scorer.gate.set()
            status = (await first).status_code
        await engine.aclose()
        return tokens, status, engine.queued_tokens, len(scorer.batches)

    assert asyncio.run(main()) == (2, 200, 0, 1)


def test_a_scorer_that_is_too_slow_is_cancelled_and_answered_504():
    async def main():
        backend = Hanging()
        transport = httpx.ASGITransport(app=build_http_app(backend))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/v1/rewards", json={"items": [GOOD], "timeout_s": 0.01})
        await asyncio.sleep(0)
        return backend.cancelled, answer.status_code, answer.json()["error"]["code"]

    assert asyncio.run(main()) == (True, 504, "deadline")


def test_models_that_cannot_be_told_in_time_are_504_too():
    class Lost(Backend):
        async def models(self):
            await asyncio.Event().wait()
            return [served()]

    assert post({"items": [GOOD], "timeout_s": 0.01}, backend=Lost()).status_code == 504
