"""The whole HTTP side as one ASGI app. Called by `app.gateway`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI
from starlette.types import ASGIApp

from rmray.serving.http.backend import ScoringBackend
from rmray.serving.http.errors import add_error_handlers
from rmray.serving.http.keys import ApiKeys
from rmray.serving.http.middleware import BodyLimit, KeyGate, OnAnswer, RequestIds
from rmray.serving.http.routes import probes_router, rewards_router


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """max_body_bytes: of any request, read or not. max_tokens: of one request, as guessed from its characters; of token
    ids their number. body_timeout_s: for a body to come in. The numbers of items and completions are bounded by
    `wire`."""

    max_body_bytes: int = 16 * 2**20
    max_tokens: int = 2**20
    body_timeout_s: float = 60.0


def build_http_app(
    backend: ScoringBackend,
    *,
    keys: ApiKeys | None = None,
    limits: HttpLimits | None = None,
    answers_request_id: bool = True,
    on_answer: OnAnswer | None = None,
) -> ASGIApp:
    """The app over `backend`. keys: one of them is asked for on every route but the probes; None: nobody is asked.
    answers_request_id, on_answer: see `RequestIds`."""
    limits = limits or HttpLimits()
    app = FastAPI(title="rmray", description="Scores of reward models.", version="1")
    app.include_router(rewards_router(backend, max_tokens=limits.max_tokens, with_keys=keys is not None))
    app.include_router(probes_router(backend))
    add_error_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_body_bytes=limits.max_body_bytes, body_timeout_s=limits.body_timeout_s)
    if keys is not None:
        app.add_middleware(KeyGate, keys=keys)
    app.add_middleware(RequestIds, answers=answers_request_id, on_answer=on_answer)
    return app
