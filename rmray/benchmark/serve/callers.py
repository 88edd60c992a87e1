"""All callers of a run, in one process: by handle, over HTTP, and of the peer. An actor of `cluster`.

Requests and bodies are made before anything is timed. By handle the callers use `RewardClient`; HTTP is sent by aiohttp
to both servers, at the same cost and a small one: 0.12 ms of CPU a request, where httpx takes 1 to 3.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rmray.benchmark.serve.load import Call, Loop, closed_loop, open_loop
from rmray.benchmark.serve.settings import HANDLE, HTTP, PEER
from rmray.benchmark.serve.work import Work
from rmray.benchmark.settings import require
from rmray.client.rewards import RewardClient
from rmray.errors import RequestError
from rmray.models.tiny_base import EOS
from rmray.schema import Content, ScoreRequest, ScoreResult, TokenIds

TIMEOUT_S = 300.0
IDLE_S = 2.0
"""Below the five seconds after which uvicorn closes an idle connection."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where to ask. transport: handle, http or peer. address: a served name, or the URL of the route, whose body names
    `model`."""

    transport: str
    address: str
    model: str = ""


class Callers:
    """`connect` makes what asks through a handle; Ray's side of it stays in `cluster`."""

    def __init__(self, work: Work, connect: Callable[[str], RewardClient]) -> None:
        self._work, self._connect = work, connect
        self._clients: dict[str, RewardClient] = {}
        self._bodies: dict[tuple[Door, tuple[str, int]], list[bytes]] = {}
        self._http: Any = None

    async def closed(self, door: Door, kind: tuple[str, int], callers: int, seconds: float) -> Loop:
        return await closed_loop(self._call(door, kind), callers=callers, seconds=seconds)

    async def opened(self, door: Door, kind: tuple[str, int], arrivals_s: Sequence[float]) -> Loop:
        return await open_loop(self._call(door, kind), arrivals_s)

    async def scores(self, door: Door, kind: tuple[str, int], number: int) -> list[float]:
        """Raw scores of the first `number` requests, asked one by one."""
        ask = self._ask(door, kind)
        return [score for i in range(number) for score in await ask(i)]

    async def calls(self, call: Callable[[], Any], number: int) -> list[float]:
        """Seconds of each of `number` calls, one after the other."""
        seconds = []
        for _ in range(number):
            start_s = time.perf_counter()
            await call()
            seconds.append(time.perf_counter() - start_s)
        return seconds

    def _call(self, door: Door, kind: tuple[str, int]) -> Call:
        ask, completions = self._ask(door, kind), kind[1]

        async def call(number: int) -> int:
            scores = await ask(number)
            if len(scores) != completions:
                raise RequestError("bad_response", f"{len(scores)} scores of {completions}", where=door.address)
            return completions

        return call

    def _ask(self, door: Door, kind: tuple[str, int]) -> Callable[[int], Any]:
        return self._by_handle(door, kind) if door.transport == HANDLE else self._by_http(door, kind)

    def _by_handle(self, door: Door, kind: tuple[str, int]) -> Callable[[int], Any]:
        if door.address not in self._clients:
            self._clients[door.address] = self._connect(door.address)
        client, requests = self._clients[door.address], self._work[kind]

        async def ask(number: int) -> list[float]:
            (response,) = await client.ascore([requests[number % len(requests)]], timeout_s=TIMEOUT_S)
            return [r.raw for r in response.results if isinstance(r, ScoreResult)]

        return ask

    def _by_http(self, door: Door, kind: tuple[str, int]) -> Callable[[int], Any]:
        aiohttp = require("aiohttp", "asking over HTTP")
        if self._http is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
            self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        if (door, kind) not in self._bodies:
            self._bodies[door, kind] = [BODIES[door.transport](door.model, request) for request in self._work[kind]]
        bodies, scores_of = self._bodies[door, kind], SCORES[door.transport]
        headers = {"content-type": "application/json"}

        async def ask(number: int) -> list[float]:
            async with self._http.post(door.address, data=bodies[number % len(bodies)], headers=headers) as answer:
                body = await answer.read()
            if answer.status != 200:
                raise RequestError(
                    "bad_response",
                    f"the server answered {answer.status}",
                    where=door.address,
                    why=body[:200].decode("utf-8", "replace"),
                )
            return scores_of(json.loads(body))

        return ask


def rewards_body(model: str, request: ScoreRequest) -> bytes:
    """Of `POST /v1/rewards`."""
    item: dict[str, Any] = {
        "prompt": _plain(request.prompt),
        "completions": [_plain(completion) for completion in request.completions],
    }
    if request.tokenizer_hash is not None:
        item["tokenizer_hash"] = request.tokenizer_hash
    return json.dumps({"model": model, "timeout_s": TIMEOUT_S, "items": [item]}).encode()


def query_body(_: str, request: ScoreRequest) -> bytes:
    """Of `POST /get_reward`: whole texts, special tokens included."""
    return json.dumps({"query": [f"{request.prompt}{completion}{EOS}" for completion in request.completions]}).encode()


def _plain(content: Content) -> Any:
    return list(content.ids) if isinstance(content, TokenIds) else content


BODIES: dict[str, Callable[[str, ScoreRequest], bytes]] = {HTTP: rewards_body, PEER: query_body}
SCORES: dict[str, Callable[[Any], list[float]]] = {
    HTTP: lambda answer: [c["raw"] for item in answer["results"] for c in item["completions"] if "raw" in c],
    PEER: lambda answer: answer["rewards"],
}
