"""RewardClient over HTTP against the real routes: the scorer's own answers, faults in our words, one deadline."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from rmray.client import HttpTransport, InProcessTransport, RewardClient
from rmray.client import http as module
from rmray.config.serve import ServedModel
from rmray.errors import ConfigError, RequestError
from rmray.models.scorer import score_requests
from rmray.retry import TryAgainError
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, TokenIds
from rmray.serving.http import HttpLimits, build_http_app
from tests.fakes import ArithmeticScorer

URL = "http://test"


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


def transport(backend: Backend, name: str | None = None, **options: Any) -> HttpTransport:
    app = httpx.ASGITransport(app=build_http_app(backend, **options))
    return HttpTransport(URL, name, http=app)


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


def client(backend: Backend) -> RewardClient:
    return RewardClient(transport(backend), sleep=no_sleep)


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> HttpTransport:
    return HttpTransport(URL, http=httpx.MockTransport(answer))


def requests(n: int = 1, k: int = 2) -> list[ScoreRequest]:
    return [ScoreRequest(prompt="p", completions=("x" * (i + 1),) * k, id=str(i)) for i in range(n)]


def test_answers_are_those_of_the_scorer_in_the_process() -> None:
    backend = Backend()
    user = {"role": "user", "content": "hi", "name": "bo"}
    sent = [
        ScoreRequest(prompt="p", completions=("a", 'bé\n"', "", "x" * 601), id="f:1"),
        ScoreRequest(prompt=(user,), completions=(({"role": "assistant", "content": "yes"},),), id="x" * 300),
        ScoreRequest(prompt=TokenIds((1, 2)), completions=(TokenIds((3,)), TokenIds((4, 5))), tokenizer_hash="h"),
        ScoreRequest(prompt="p", completions=("a", "b"), finished=(True, False), tools=({"name": "f"},), truncate=True),
        ScoreRequest(prompt="p", completions=tuple("x" * (1 + i % 9) for i in range(300)), id="many"),
    ]
    with client(backend) as http, RewardClient(InProcessTransport(backend.scorer)) as here:
        assert http.score(sent) == here.score(sent)
        assert http.model() == ServedModel(**{**as_dict(here.model()), "name": "helpful", "app": URL})
    arrived = {len(r.completions): r for call in backend.calls for r in call}
    assert arrived[2].truncate
    assert arrived[2].finished == (True, False)
    assert arrived[2].tools == ({"name": "f"},)
    assert set(arrived) >= {4, 1, 256, 44}


def as_dict(model: ServedModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ServedModel.__dataclass_fields__}


def test_long_calls_travel_as_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 150)
    with client(backend) as http:
        assert [r.results[0].raw for r in http.score(requests(9))] == [n + 1.0 for n in range(9)]  # type: ignore[union-attr]
    assert len(backend.calls) >= 4


def test_items_that_the_gateway_refuses_fail_alone() -> None:
    backend = Backend()
    sent = [
        *requests(1),
        ScoreRequest(prompt="p", completions=("ok", "\ud800")),
        ScoreRequest(prompt="p", completions=("ok",), tools=({"limit": float("nan")},)),
        ScoreRequest(prompt=({"role": "wizard", "content": "x"},), completions=("ok",)),
        ScoreRequest(prompt=TokenIds((2**40,)), completions=("ok",)),
        *requests(1),
    ]
    with client(backend) as http:
        got = http.score(sent)
    failures = [[r.code if isinstance(r, ScoreFailure) else r.raw for r in x.results] for x in got]
    bad = "invalid_request"
    assert failures == [[1.0, 1.0], [bad, bad], [bad], ["unknown_role"], [bad], [1.0, 1.0]]
    assert "completions[1]" in got[1].results[0].message  # type: ignore[union-attr]


@pytest.mark.parametrize("code", ["overloaded", "replica_lost", "shutting_down"])
def test_what_may_be_mended_is_asked_again(code: str) -> None:
    backend = Backend()
    backend.script = [RequestError(code, "busy"), ScoreFailure(code=code, message="busy", retry_after_s=0.1)]
    with client(backend) as http:
        assert http.score_group("p", ["a", "bb"])[1].raw == 2.0
    assert len(backend.calls) == 3


def test_the_time_that_the_server_asks_for_is_told() -> None:
    backend = Backend()
    backend.script = [RequestError("overloaded", "busy")]
    with pytest.raises(TryAgainError, match="busy") as caught:
        asyncio.run(transport(backend).send(served(backend.scorer), requests(), timeout_s=5))
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1.0)
    backend.script = [ScoreFailure(code="overloaded", message="full", retry_after_s=2.3)]
    (response,) = asyncio.run(transport(backend).send(served(backend.scorer), requests(), timeout_s=5))
    assert response.results == (ScoreFailure(code="overloaded", message="full", retry_after_s=3.0),) * 2


def test_failures_of_all_items_stand_in_their_places() -> None:
    backend = Backend()
    with client(backend) as http:
        got = http.score_group("p", ["x" * 601, ""], errors="return")
    assert [r.code for r in got] == ["over_length", "blank_completion"]  # type: ignore[union-attr]


def test_a_model_that_moves_is_stale_and_resolved_again() -> None:
    backend = Backend()
    with client(backend) as http:
        http.score(requests())
        backend.scorer = ArithmeticScorer(version="fake-2")
        got = http.score(requests(3))
        assert {r.model_version for x in got for r in x.results} == {"fake-2"}  # type: ignore[union-attr]
    old = served(ArithmeticScorer())
    with pytest.raises(TryAgainError, match=r"asked fake-1, answered by fake-2") as caught:
        asyncio.run(transport(backend).send(old, requests(), timeout_s=5))
    assert caught.value.code == "stale"


@pytest.mark.parametrize(
    ("names", "name", "code"),
    [(("a", "b"), "x", "unknown_model"), ((), None, "unknown_model"), (("a", "b"), None, "model_missing")],
)
def test_an_unknown_model_is_final_and_the_names_are_told(names: Any, name: Any, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        asyncio.run(transport(Backend(names=names), name).resolve(refresh=True, timeout_s=5))
    assert caught.value.code == code
    assert f"served: {', '.join(names) or 'none'}" in str(caught.value)
    assert not isinstance(caught.value, TryAgainError)


def test_the_only_model_needs_no_name_and_a_name_that_went_is_final() -> None:
    backend = Backend(names=("a",))
    with client(backend) as http:
        assert http.model().name == "a"
        backend.names = ("b",)
        with pytest.raises(RequestError) as caught:
            http.score(requests())
    assert caught.value.code == "unknown_model"


def test_a_body_too_large_is_final_and_says_what_to_do() -> None:
    backend = Backend()
    with (
        RewardClient(transport(backend, limits=HttpLimits(max_body_bytes=1000))) as http,
        pytest.raises(RequestError, match="fewer") as caught,
    ):
        http.score_group("p" * 2000, ["a"])
    assert caught.value.code == "body_too_large"


PAGE = "<html>secret text</html>"


@pytest.mark.parametrize(
    ("answer", "code", "again"),
    [
        (httpx.Response(429, headers={"Retry-After": "7"}), "overloaded", True),
        (httpx.Response(503, text=PAGE, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), "overloaded", True),
        (httpx.Response(502, text=PAGE), "replica_lost", True),
        (httpx.Response(504, text=PAGE), "replica_lost", True),
        (httpx.Response(504, json={"error": {"code": "deadline", "message": "late"}}), "deadline", False),
        (httpx.Response(500, json={"error": {"code": "internal", "message": "bug"}}), "internal", False),
        (httpx.Response(500, text=PAGE), "bad_response", False),
        (httpx.Response(401, text=PAGE), "unauthorized", False),
        (httpx.Response(404, text=PAGE), "not_found", False),
        (httpx.Response(413, text=PAGE), "body_too_large", False),
        (httpx.Response(422, json={"error": {"code": "invalid_request", "message": "m"}}), "invalid_request", False),
        (
            httpx.Response(
                422,
                json={"error": {"code": "invalid_request", "message": "m", "fields": [{"field": "items[7].prompt"}]}},
            ),
            "invalid_request",
            False,
        ),
        (httpx.Response(307, headers={"Location": "https://other"}), "bad_response", False),
        (httpx.Response(200, text=PAGE), "bad_response", False),
        (httpx.Response(200, json={"results": []}), "bad_response", False),
        (httpx.Response(200, json={"results": [{"id": "1.0", "completions": [{}, {}]}]}), "bad_response", False),
        (httpx.Response(200, json={"results": [{"id": "0.0", "completions": [{}, {}]}]}), "bad_response", False),
        (httpx.Response(200, json={"results": [{"id": "0.0", "completions": [3, 4]}]}), "bad_response", False),
        (httpx.ConnectError("refused"), "replica_lost", True),
        (httpx.ReadError("reset"), "replica_lost", True),
    ],
)
def test_faults_have_their_codes(answer: Any, code: str, again: bool) -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    with pytest.raises(RequestError) as caught:
        asyncio.run(answering(respond).send(served(ArithmeticScorer()), requests(), timeout_s=5))
    assert (caught.value.code, isinstance(caught.value, TryAgainError)) == (code, again)
    assert "secret" not in str(caught.value)
    if answer is not None and not isinstance(answer, Exception) and answer.status_code == 429:
        assert caught.value.retry_after_s == 7.0  # type: ignore[attr-defined]


def test_numbers_that_are_not_finite_are_failures() -> None:
    entry = {"raw": 1, "reward": 1, "quantile": 0.5, "model_version": "fake-1", "reference": "r", "num_tokens": 1}
    body = {"results": [{"id": "0.0", "completions": [{**entry, "reward": float("nan")}, entry]}]}
    answer = answering(lambda _: httpx.Response(200, content=json.dumps(body)))
    (response,) = asyncio.run(answer.send(served(ArithmeticScorer()), requests(), timeout_s=5))
    assert [getattr(r, "code", "scored") for r in response.results] == ["non_finite", "scored"]


def test_what_stands_in_the_request() -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(500)

    way = HttpTransport("https://host:8443/prefix/", api_key="key", http=httpx.MockTransport(respond))
    for call in (
        way.resolve(refresh=False, timeout_s=5),
        way.send(served(ArithmeticScorer()), requests(), timeout_s=5),
    ):
        with pytest.raises(RequestError):
            asyncio.run(call)
    assert [str(r.url) for r in seen] == [f"https://host:8443/prefix/v1/{path}" for path in ("models", "rewards")]
    assert {r.headers["authorization"] for r in seen} == {"Bearer key"}
    sent = json.loads(seen[1].content)
    assert 4 < sent.pop("timeout_s") <= 4.5  # what was left of the 5 s, less what the way back takes
    assert sent == {
        "model": "helpful",
        "items": [{"id": "0.0", "prompt": "p", "completions": ["x", "x"]}],
    }
    assert "key" not in repr(way)


def test_the_deadline_is_the_callers_and_the_server_has_a_little_less() -> None:
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        raise AssertionError("unreachable")

    start_s = time.perf_counter()
    with RewardClient(answering(hang)) as http, pytest.raises(RequestError) as caught:  # type: ignore[arg-type]
        http.score(requests(), timeout_s=0.2)
    assert caught.value.code == "deadline"
    assert time.perf_counter() - start_s < 2
    backend = Backend()
    with client(backend) as http:
        http.score(requests(), timeout_s=2.0)
    assert 1.5 < backend.timeouts_s[0] < 2.0
    with client(backend) as http:
        http.score(requests(), timeout_s=5000.0)  # more than the gateway takes
    assert backend.timeouts_s[1] == 600.0


def test_a_gateway_that_starts_again_is_waited_for() -> None:
    backend, faults = Backend(), [httpx.ConnectError("refused")] * 2
    app = httpx.ASGITransport(app=build_http_app(backend))

    class Restarting(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if faults:
                raise faults.pop()
            return await app.handle_async_request(request)

    with RewardClient(HttpTransport(URL, http=Restarting()), sleep=no_sleep) as http:
        assert len(http.score(requests())) == 1


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


@pytest.fixture
def live() -> Iterator[tuple[str, Backend]]:
    """URL of the real app on a loopback socket, and its backend."""
    backend = Backend()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(build_http_app(backend), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield url, backend
        server.should_exit = True
        thread.join(timeout=10)


def test_over_a_real_socket_from_several_threads_and_loops(live: tuple[str, Backend], caplog: Any) -> None:
    url, backend = live
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
        assert len(http._transport._clients) <= 2  # of loops that ended nothing is kept
    assert "secret" not in caplog.text
    with pytest.raises(RequestError, match="connection failed") as caught:
        RewardClient.connect_http("http://127.0.0.1:9", timeout_s=5)  # nobody listens there
    assert caught.value.code == "replica_lost"
