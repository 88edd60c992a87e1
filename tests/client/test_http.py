"""RewardClient over HTTP against the real routes: the scorer's own answers, faults in our words, one deadline."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rmray.client import HttpTransport, InProcessTransport, RewardClient
from rmray.client import http as module
from rmray.config.serve import ServedModel
from rmray.errors import ConfigError, RequestError
from rmray.models.scorer import score_requests
from rmray.retry import TryAgainError
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, TokenIds
from rmray.serving.http import HttpLimits, build_http_app
from tests.client.loopback import MODELS, SCORED, App, Raw, Serve
from tests.fakes import ArithmeticScorer


def served(scorer: ArithmeticScorer, name: str = "helpful") -> ServedModel:
    info = scorer.info
    return ServedModel(
        name=name,
        app=f"{name}-{info.model_version}",
        kind=info.kind,
        model_version=info.model_version,
        reference=info.reference,
        tokenizer_hash=info.tokenizer_hash,
        max_length=info.max_length,
    )


class Backend:
    """Scores with `scorer`; takes one entry of `script` a call before: an exception to raise or a failure for all."""

    def __init__(self, scorer: ArithmeticScorer | None = None, *, names: tuple[str, ...] = ("helpful",)) -> None:
        self.scorer = scorer or ArithmeticScorer(max_length=600, mean=1.0, std=2.0)
        self.names = names
        self.script: list[Exception | ScoreFailure | None] = []
        self.calls: list[list[ScoreRequest]] = []
        self.timeouts_s: list[float] = []

    async def models(self) -> list[ServedModel]:
        return [served(self.scorer, name) for name in self.names]

    async def score(self, model: Any, requests: Any, *, timeout_s: float) -> list[ScoreResponse]:
        self.calls.append(list(requests))
        self.timeouts_s.append(timeout_s)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            return [ScoreResponse(results=(step,) * len(r.completions), id=r.id) for r in requests]
        return score_requests(self.scorer, requests)

    def app(self, **options: Any) -> App:
        return build_http_app(self, **options)


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


def client(url: str) -> RewardClient:
    return RewardClient(HttpTransport(url), sleep=no_sleep)


def requests(n: int = 1, k: int = 2) -> list[ScoreRequest]:
    return [ScoreRequest(prompt="p", completions=("x" * (i + 1),) * k, id=str(i)) for i in range(n)]


def test_answers_are_those_of_the_scorer_in_the_process(serve: Serve) -> None:
    backend = Backend()
    user = {"role": "user", "content": "hi", "name": "bo"}
    sent = [
        ScoreRequest(prompt="p", completions=("a", 'bé\n"', "", "x" * 601), id="f:1"),
        ScoreRequest(prompt=(user,), completions=(({"role": "assistant", "content": "yes"},),), id="x" * 300),
        ScoreRequest(prompt=TokenIds((1, 2)), completions=(TokenIds((3,)), TokenIds((4, 5))), tokenizer_hash="h"),
        ScoreRequest(prompt="p", completions=("a", "b"), finished=(True, False), tools=({"name": "f"},), truncate=True),
        ScoreRequest(prompt="p", completions=tuple("x" * (1 + i % 9) for i in range(300)), id="many"),
    ]
    url = serve(backend.app())
    with client(url) as http, RewardClient(InProcessTransport(backend.scorer)) as here:
        assert http.score(sent) == here.score(sent)
        assert http.model() == ServedModel(**{**as_dict(here.model()), "name": "helpful", "app": url})
    arrived = {len(r.completions): r for call in backend.calls for r in call}
    assert arrived[2].truncate
    assert arrived[2].finished == (True, False)
    assert arrived[2].tools == ({"name": "f"},)
    assert set(arrived) >= {4, 1, 256, 44}


def as_dict(model: ServedModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ServedModel.__dataclass_fields__}


def test_long_calls_travel_as_several_messages(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    backend = Backend()
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 150)
    with client(serve(backend.app())) as http:
        assert [r.results[0].raw for r in http.score(requests(9))] == [n + 1.0 for n in range(9)]  # type: ignore[union-attr]
    assert len(backend.calls) >= 4


def test_items_that_the_gateway_refuses_fail_alone(serve: Serve) -> None:
    backend = Backend()
    sent = [
        *requests(1),
        ScoreRequest(prompt="p", completions=("ok", "\ud800")),
        ScoreRequest(prompt="p", completions=("ok",), tools=({"limit": float("nan")},)),
        ScoreRequest(prompt=({"role": "wizard", "content": "x"},), completions=("ok",)),
        ScoreRequest(prompt=TokenIds((2**40,)), completions=("ok",)),
        *requests(1),
    ]
    with client(serve(backend.app())) as http:
        got = http.score(sent)
    failures = [[r.code if isinstance(r, ScoreFailure) else r.raw for r in x.results] for x in got]
    bad = "invalid_request"
    assert failures == [[1.0, 1.0], [bad, bad], [bad], ["unknown_role"], [bad], [1.0, 1.0]]
    assert "completions[1]" in got[1].results[0].message  # type: ignore[union-attr]


@pytest.mark.parametrize("code", ["overloaded", "replica_lost", "shutting_down"])
def test_what_may_be_mended_is_asked_again(code: str, serve: Serve) -> None:
    backend = Backend()
    backend.script = [RequestError(code, "busy"), ScoreFailure(code=code, message="busy", retry_after_s=0.1)]
    with client(serve(backend.app())) as http:
        assert http.score_group("p", ["a", "bb"])[1].raw == 2.0
    assert len(backend.calls) == 3


def test_the_time_that_the_server_asks_for_is_told(serve: Serve) -> None:
    backend = Backend()
    backend.script = [RequestError("overloaded", "busy")]
    with pytest.raises(TryAgainError, match="busy") as caught:
        asyncio.run(HttpTransport(serve(backend.app())).send(served(backend.scorer), requests(), timeout_s=5))
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1.0)
    backend.script = [ScoreFailure(code="overloaded", message="full", retry_after_s=2.3)]
    (response,) = asyncio.run(HttpTransport(serve(backend.app())).send(served(backend.scorer), requests(), timeout_s=5))
    assert response.results == (ScoreFailure(code="overloaded", message="full", retry_after_s=3.0),) * 2


def test_failures_of_all_items_stand_in_their_places(serve: Serve) -> None:
    backend = Backend()
    with client(serve(backend.app())) as http:
        got = http.score_group("p", ["x" * 601, ""], errors="return")
    assert [r.code for r in got] == ["over_length", "blank_completion"]  # type: ignore[union-attr]


def test_a_model_that_moves_is_stale_and_resolved_again(serve: Serve) -> None:
    backend = Backend()
    with client(serve(backend.app())) as http:
        http.score(requests())
        backend.scorer = ArithmeticScorer(version="fake-2")
        got = http.score(requests(3))
        assert {r.model_version for x in got for r in x.results} == {"fake-2"}  # type: ignore[union-attr]
    old = served(ArithmeticScorer())
    with pytest.raises(TryAgainError, match=r"asked fake-1, answered by fake-2") as caught:
        asyncio.run(HttpTransport(serve(backend.app())).send(old, requests(), timeout_s=5))
    assert caught.value.code == "stale"


@pytest.mark.parametrize(
    ("names", "name", "code"),
    [(("a", "b"), "x", "unknown_model"), ((), None, "unknown_model"), (("a", "b"), None, "model_missing")],
)
def test_an_unknown_model_is_final_and_the_names_are_told(names: Any, name: Any, code: str, serve: Serve) -> None:
    with pytest.raises(RequestError) as caught:
        asyncio.run(HttpTransport(serve(Backend(names=names).app()), name).resolve(refresh=True, timeout_s=5))
    assert caught.value.code == code
    assert f"served: {', '.join(names) or 'none'}" in str(caught.value)
    assert not isinstance(caught.value, TryAgainError)


def test_the_only_model_needs_no_name_and_a_name_that_went_is_final(serve: Serve) -> None:
    backend = Backend(names=("a",))
    with client(serve(backend.app())) as http:
        assert http.model().name == "a"
        backend.names = ("b",)
        with pytest.raises(RequestError) as caught:
            http.score(requests())
    assert caught.value.code == "unknown_model"


def test_a_body_too_large_is_final_and_says_what_to_do(serve: Serve) -> None:
    backend = Backend()
    with (
        RewardClient(HttpTransport(serve(backend.app(limits=HttpLimits(max_body_bytes=1000))))) as http,
        pytest.raises(RequestError, match="fewer") as caught,
    ):
        http.score_group("p" * 2000, ["a"])
    assert caught.value.code == "body_too_large"


PAGE = "<html>secret text</html>"


@pytest.mark.parametrize(
    ("answer", "code", "again"),
    [
        (Response(None, 429, headers={"Retry-After": "7"}), "overloaded", True),
        (Response(PAGE, 503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), "overloaded", True),
        (Response(PAGE, 502), "replica_lost", True),
        (Response(PAGE, 504), "replica_lost", True),
        (JSONResponse({"error": {"code": "deadline", "message": "late"}}, 504), "deadline", False),
        (JSONResponse({"error": {"code": "internal", "message": "bug"}}, 500), "internal", False),
        (Response(PAGE, 500), "bad_response", False),
        (Response(PAGE, 401), "unauthorized", False),
        (Response(PAGE, 404), "not_found", False),
        (Response(PAGE, 413), "body_too_large", False),
        (JSONResponse({"error": {"code": "invalid_request", "message": "m"}}, 422), "invalid_request", False),
        (
            JSONResponse(
                {"error": {"code": "invalid_request", "message": "m", "fields": [{"field": "items[7].prompt"}]}}, 422
            ),
            "invalid_request",
            False,
        ),
        (Response(None, 307, headers={"Location": "https://other"}), "bad_response", False),
        (Response(PAGE, 200), "bad_response", False),
        (JSONResponse({"results": []}, 200), "bad_response", False),
        (JSONResponse({"results": [{"id": "1.0", "completions": [{}, {}]}]}, 200), "bad_response", False),
        (JSONResponse({"results": [{"id": "0.0", "completions": [{}, {}]}]}, 200), "bad_response", False),
        (JSONResponse({"results": [{"id": "0.0", "completions": [3, 4]}]}, 200), "bad_response", False),
    ],
)
def test_faults_have_their_codes(answer: Response, code: str, again: bool, serve: Serve) -> None:
    with pytest.raises(RequestError) as caught:
        asyncio.run(HttpTransport(serve(answer)).send(served(ArithmeticScorer()), requests(), timeout_s=5))
    assert (caught.value.code, isinstance(caught.value, TryAgainError)) == (code, again)
    assert "secret" not in str(caught.value)
    if answer.status_code == 429:
        assert caught.value.retry_after_s == 7.0  # type: ignore[attr-defined]


def test_numbers_that_are_not_finite_are_failures(serve: Serve) -> None:
    entry = {"raw": 1, "reward": 1, "quantile": 0.5, "model_version": "fake-1", "reference": "r", "num_tokens": 1}
    body = {"results": [{"id": "0.0", "completions": [{**entry, "reward": float("nan")}, entry]}]}
    way = HttpTransport(serve(Response(json.dumps(body))))
    (response,) = asyncio.run(way.send(served(ArithmeticScorer()), requests(), timeout_s=5))
    assert [getattr(r, "code", "scored") for r in response.results] == ["non_finite", "scored"]


def test_what_stands_in_the_request(serve: Serve) -> None:
    seen: list[tuple[Request, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        seen.append((request, await request.body()))
        await Response(None, 500)(scope, receive, send)

    url = serve(app)
    way = HttpTransport(f"{url}/a%2Fb%20c/", api_key="key")
    for call in (
        way.resolve(refresh=False, timeout_s=5),
        way.send(served(ArithmeticScorer()), requests(), timeout_s=5),
    ):
        with pytest.raises(RequestError):
            asyncio.run(call)
    at = url.removeprefix(f"http://{seen[0][0].headers['host']}")
    paths = [f"{at}/a%2Fb%20c/v1/{path}".encode() for path in ("models", "rewards")]
    assert [r.scope["raw_path"] for r, _ in seen] == paths
    assert {r.headers["authorization"] for r, _ in seen} == {"Bearer key"}
    assert seen[1][0].headers["content-type"] == "application/json"
    sent = json.loads(seen[1][1])
    assert 4 < sent.pop("timeout_s") <= 4.5  # what was left of the 5 s, less what the way back takes
    assert sent == {
        "model": "helpful",
        "items": [{"id": "0.0", "prompt": "p", "completions": ["x", "x"]}],
    }
    assert "key" not in repr(way)


@pytest.mark.parametrize("begins", [False, True])
def test_the_deadline_is_the_callers_up_to_the_end_of_the_answer(begins: bool, serve: Serve) -> None:
    async def hang(scope: Any, receive: Any, send: Any) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
        while (await receive())["type"] != "http.disconnect":  # the caller has gone
            pass

    start_s = time.perf_counter()
    with client(serve(hang)) as http, pytest.raises(RequestError) as caught:
        http.score(requests(), timeout_s=0.2)
    assert caught.value.code == "deadline"
    assert time.perf_counter() - start_s < 2


def test_the_server_has_a_little_less_time_than_the_caller(serve: Serve) -> None:
    backend = Backend()
    with client(serve(backend.app())) as http:
        http.score(requests(), timeout_s=2.0)
    assert 1.5 < backend.timeouts_s[0] < 2.0
    with client(serve(backend.app())) as http:
        http.score(requests(), timeout_s=5000.0)  # more than the gateway takes
    assert backend.timeouts_s[1] == 600.0


def test_a_gateway_that_starts_again_is_waited_for() -> None:
    with Raw(MODELS, SCORED, starts=False) as gateway:
        waits: list[float] = []

        async def sleep(delay_s: float) -> None:
            waits.append(delay_s)
            if len(waits) == 2:
                gateway.start()

        with RewardClient(HttpTransport(gateway.url), sleep=sleep) as http:
            assert http.score_group("p", ["a"])[0].raw == 1.0
    assert len(waits) == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:8000",
        "ftp://host",
        "file:///etc/passwd",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://[",
    ],
)
def test_only_http_addresses(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a server"):
        HttpTransport(url)


@pytest.mark.parametrize("url", ["http://user:hunter2@host", "http://host/?token=hunter2", "http://host/#hunter2"])
def test_secrets_have_no_place_in_the_address(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HttpTransport(url)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        HttpTransport("http://host", api_key="hunter2\n")
    assert "hunter2" not in str(caught.value)


def test_from_several_threads_and_loops(serve: Serve, caplog: Any) -> None:
    backend = Backend()
    url = serve(backend.app())
    with caplog.at_level("DEBUG"), RewardClient.connect_http(url, "helpful") as http:
        with RewardClient.in_process(backend.scorer) as here:
            expected = here.score(requests(40))
        got: list[Any] = []
        threads = [threading.Thread(target=lambda: got.append(http.score(requests(40)))) for _ in range(3)]
        threads += [threading.Thread(target=lambda: got.append(asyncio.run(http.ascore(requests(40)))))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        got += [asyncio.run(http.ascore(requests(40))) for _ in range(3)]  # a new loop each time
        copy = pickle.loads(pickle.dumps(http))
        with copy:
            got.append(copy.score(requests(40)))
        http.score_group("secret prompt", ["secret answer"])
        assert got == [expected] * 8
        assert len(http._transport._connections._held) <= 2  # of loops that ended nothing is kept
    assert "secret" not in caplog.text
    with pytest.raises(RequestError, match="connection failed") as caught:
        RewardClient.connect_http("http://127.0.0.1:9", timeout_s=5)  # nobody listens there
    assert caught.value.code == "replica_lost"
