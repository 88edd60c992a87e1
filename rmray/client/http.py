"""The client's way over HTTP: a transport to the gateway's `/v1/rewards`, from anywhere and without Ray.

Called by `rewards`. `connections` sends, `answers` reads what comes back. Nothing is logged here, and no text that is
scored gets into an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rmray.client.answers import Answer, choose_card, fault_of, read_results, refused_items
from rmray.client.connections import Connections, deadline
from rmray.config.serve import ServedModel
from rmray.errors import ConfigError
from rmray.retry import TryAgainError
from rmray.schema import Content, ItemResult, ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult, Steps, TokenIds

MAX_COMPLETIONS = 256
"""Completions in one item; the gateway takes no more. A larger group travels as several items."""
MAX_ITEMS = 1024
"""Items in one message."""
MAX_MESSAGE_BYTES = 8 * 2**20
"""Half of what the gateway takes; a larger call travels as several messages, one after the other."""
MAX_TIMEOUT_S = 600.0
"""The gateway takes no longer deadline."""


class HttpTransport:
    """Scores at `url` of a gateway with the model `name`, or with the only one there. Pickles as its settings.

    url: http or https; a path in it is kept as a prefix. api_key: sent as a bearer token, for a proxy that asks for
    one.

    The model once resolved is trusted until an answer names another version: that is `stale`, and resolved again. Where
    it has a canary, one of the two is drawn for each call, and asked for by its version.
    """

    def __init__(self, url: str, name: str | None = None, *, api_key: str | None = None) -> None:
        self._url, self._name, self._api_key = check_url(url), name, api_key
        if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key must be printable ASCII, and not empty", where=self._url)
        self._model: ServedModel | None = None
        self._connections = Connections(self._url, api_key)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._url, self._name, self._api_key)

    def __repr__(self) -> str:
        return f"HttpTransport({self._url!r}, {self._name!r})"

    async def resolve(self, *, refresh: bool, timeout_s: float) -> ServedModel:
        """The model behind the name. RequestError `unknown_model` or `model_missing` with the names that are there."""
        if self._model is None or refresh:
            answer = await self._connections.ask("GET", "/v1/models", None, timeout_s)
            if answer.status != 200:
                raise fault_of(answer, self._url)
            self._model = choose_card(answer, self._name, self._url)
        return self._model

    async def send(
        self, model: ServedModel, requests: Sequence[ScoreRequest], *, timeout_s: float
    ) -> list[ScoreResponse]:
        """One message, or several where one would be too large. TryAgainError `stale` where another version answers."""
        deadline_s = time.monotonic() + timeout_s
        results: list[list[ItemResult]] = [[] for _ in requests]
        pieces = [piece for i, request in enumerate(requests) for piece in _pieces(i, request)]
        for message in _messages(pieces):
            for piece, answers in zip(message, await self._send(model, message, deadline_s), strict=True):
                results[piece.request] += answers
        for result in (r for answers in results for r in answers):
            if isinstance(result, ScoreResult) and result.model_version != model.model_version:
                raise TryAgainError(
                    "stale",
                    f"{model.name!r} is another version now",
                    where=self._url,
                    why=f"asked {model.model_version}, answered by {result.model_version}",
                )
        return [ScoreResponse(results=tuple(a), id=r.id) for a, r in zip(results, requests, strict=True)]

    def close(self) -> None:
        """Close the connections of every loop."""
        self._connections.close()

    async def _send(self, model: ServedModel, pieces: Sequence[_Piece], deadline_s: float) -> list[list[ItemResult]]:
        """Results of each piece. Items that the gateway finds wrong fail alone: the others are sent again."""
        results: list[list[ItemResult]] = [[p.failure] * p.count if p.failure else [] for p in pieces]
        while todo := [i for i, answers in enumerate(results) if not answers]:
            answer = await self._post(model, [pieces[i] for i in todo], deadline_s)
            refused = refused_items(answer, len(todo))
            for n, message in refused.items():
                results[todo[n]] = [ScoreFailure(code="invalid_request", message=message)] * pieces[todo[n]].count
            if not refused:
                shape = [(pieces[i].id, pieces[i].count) for i in todo]
                for i, answers in zip(todo, read_results(answer, shape, self._url), strict=True):
                    results[i] = answers
        return results

    async def _post(self, model: ServedModel, pieces: Sequence[_Piece], deadline_s: float) -> Answer:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise deadline(left_s)
        # The server gets a little less, so that what it could not do in time comes back item by item.
        server_s = min(left_s - min(0.1 * left_s, 0.5), MAX_TIMEOUT_S)
        has_canary = self._model is not None and self._model.canary is not None
        name = f"{model.name}@{model.model_version}" if has_canary else model.name
        head = f'{{"model":{json.dumps(name)},"timeout_s":{max(server_s, 0.001):.3f},"items":['
        return await self._connections.ask(
            "POST", "/v1/rewards", head + ",".join(p.item for p in pieces) + "]}", left_s
        )


def check_url(url: str) -> str:
    """The URL without a slash at its end, or ConfigError where it cannot be a gateway's."""
    try:
        parts = urlsplit(url.strip())
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ConfigError(f"{url!r} is no address of a server", next_step="give it as http://HOST:PORT or https://HOST")
    if parts.username or parts.password or parts.query or parts.fragment:
        # The URL stands in messages; a password must not.
        raise ConfigError(
            "the server's address must hold no user name, password, query or fragment",
            where=f"{parts.scheme}://{parts.hostname}",
            next_step="a key goes into `api_key`",
        )
    return url.strip().rstrip("/")


@dataclass(frozen=True, slots=True)
class _Piece:
    """Completions of one request that travel as one item. item: its JSON. failure: why it cannot be sent."""

    request: int
    id: str
    count: int
    item: str
    failure: ScoreFailure | None = None


def _pieces(i: int, request: ScoreRequest) -> Iterator[_Piece]:
    for start in range(0, len(request.completions), MAX_COMPLETIONS):
        part = slice(start, start + MAX_COMPLETIONS)
        # The request's own id stays here: this one shows that answers are in order.
        id, count, item, failure = f"{i}.{start}", len(request.completions[part]), "", None
        try:
            item = json.dumps(_item(request, part, id), allow_nan=False)
        except (TypeError, ValueError) as error:
            message = f"the request cannot be written as JSON ({type(error).__name__})"
            failure = ScoreFailure(code="invalid_request", message=message)
        yield _Piece(i, id, count, item, failure)


def _item(request: ScoreRequest, part: slice, id: str) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": id,
        "prompt": _content(request.prompt),
        "completions": [_content(c) for c in request.completions[part]],
    }
    if not all(request.finished[part]):
        item["finished"] = list(request.finished[part])
    if request.tokenizer_hash is not None:
        item["tokenizer_hash"] = request.tokenizer_hash
    if request.tools is not None:
        item["tools"] = [dict(tool) for tool in request.tools]
    if request.truncate:
        item["truncate"] = True
    return item


def _content(content: Content) -> Any:
    if isinstance(content, str):
        return content
    if isinstance(content, TokenIds | Steps):
        return list(content.ids if isinstance(content, TokenIds) else content.texts)
    return [dict(message) for message in content]


def _messages(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Consecutive pieces that one message can hold; a piece that is too large alone is left to the server's 413."""
    message: list[_Piece] = []
    num_bytes = 0
    for piece in pieces:
        if message and (len(message) == MAX_ITEMS or num_bytes + len(piece.item) > MAX_MESSAGE_BYTES):
            yield message
            message, num_bytes = [], 0
        message.append(piece)
        num_bytes += len(piece.item)  # json.dumps writes ASCII
    if message:
        yield message


def _rebuild(url: str, name: str | None, api_key: str | None) -> HttpTransport:
    return HttpTransport(url, name, api_key=api_key)
