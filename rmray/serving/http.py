"""FastAPI routes over a scoring backend: `/v1/rewards`, `/v1/models`, `/healthz`, `/readyz`. Called by `app.gateway`.

Knows nothing of Ray: the backend is a protocol, and tests give it one that scores in the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmray.config.serve import ServedModel
from rmray.errors import RequestError
from rmray.schema import ScoreFailure, ScoreRequest, ScoreResponse, ScoreResult
from rmray.serving.wire import (
    ErrorBody,
    ErrorDetail,
    ModelList,
    RewardsRequest,
    RewardsResponse,
    field_path,
    to_card,
    to_request,
    to_wire,
)

MAX_BODY_BYTES = 16 * 2**20

STATUS = {
    "unknown_model": 404,
    "internal": 500,
    "encode_failed": 500,
    "forward_failed": 500,
    "decode_failed": 500,
    "non_finite": 500,
    "not_ready": 503,
    "overloaded": 503,
    "shutting_down": 503,
    "replica_lost": 503,
    "stale": 503,
    "deadline": 504,
}
"""HTTP status of a failure's code where nothing could be scored; every other code is the request's fault: 422."""


class ScoringBackend(Protocol):
    """Who scores behind the routes."""

    async def models(self) -> list[ServedModel]:
        """What is served now."""
        ...

    async def score(
        self, model: ServedModel, requests: Sequence[ScoreRequest], *, timeout_s: float
    ) -> list[ScoreResponse]:
        """Responses in the order of the requests, faults as ScoreFailure. RequestError where there is no answer."""
        ...


def build_http_app(backend: ScoringBackend, *, max_body_bytes: int = MAX_BODY_BYTES) -> ASGIApp:
    """The whole HTTP side as one ASGI app."""
    app = FastAPI(title="rmray", description="Scores of reward models.", version="1")
    app.include_router(rewards_router(backend))
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(BodyLimit, max_body_bytes=max_body_bytes)
    return app


def rewards_router(backend: ScoringBackend) -> APIRouter:
    """The routes alone, to mount in another app."""
    router = APIRouter()
    faults: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody} for status in (404, 413, 422, 500, 503, 504)
    }

    @router.post("/v1/rewards", response_model=RewardsResponse, response_model_exclude_none=True, responses=faults)
    async def rewards(body: RewardsRequest) -> Any:
        """Score completions. 200 where at least one could be scored; each other one carries its own error."""
        model = choose_model(await backend.models(), body.model)
        requests = [to_request(item) for item in body.items]
        sound = [r for r in requests if isinstance(r, ScoreRequest)]
        scored = iter(await backend.score(model, sound, timeout_s=body.timeout_s) if sound else [])
        responses = [
            next(scored)
            if isinstance(request, ScoreRequest)
            else ScoreResponse(results=(request,) * len(item.completions), id=item.id)
            for request, item in zip(requests, body.items, strict=True)
        ]
        status, headers = status_of(responses)
        answer = to_wire(model.name, responses)
        if status == 200:
            return answer
        return JSONResponse(answer.model_dump(exclude_none=True), status, headers)

    @router.get("/v1/models", response_model=ModelList)
    async def models() -> Any:
        """Served models, with the tokenizer hash that token ids need."""
        return ModelList(data=[to_card(m) for m in await backend.models()])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while this process answers."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"model": ErrorBody}})
    async def readyz() -> Any:
        """200 once a model is served."""
        names = [m.name for m in await backend.models()]
        if not names:
            raise RequestError("not_ready", "no model is served yet")
        return {"status": "ready", "models": names}

    return router


def choose_model(models: Sequence[ServedModel], name: str | None) -> ServedModel:
    """The model of that name, or the only one where no name is given. RequestError `unknown_model` with the names."""
    names = ", ".join(sorted(m.name for m in models)) or "none"
    if name is None:
        if len(models) == 1:
            return models[0]
        if not models:
            raise RequestError("not_ready", "no model is served yet")
        raise RequestError("model_missing", "say which `model` is to score", why=f"served: {names}")
    for model in models:
        if model.name == name:
            return model
    raise RequestError("unknown_model", f"no model named {name!r} is served", why=f"served: {names}")


def status_of(responses: Iterable[ScoreResponse]) -> tuple[int, dict[str, str]]:
    """HTTP status and headers: 200 where anything could be scored, else the gravest of the failures' statuses."""
    results = [r for response in responses for r in response.results]
    if any(isinstance(r, ScoreResult) for r in results):
        return 200, {}
    failures = [r for r in results if isinstance(r, ScoreFailure)]
    status = max(STATUS.get(f.code, 422) for f in failures)
    return status, retry_headers(status, [f.retry_after_s for f in failures])


def retry_headers(status: int, waits_s: Iterable[float | None]) -> dict[str, str]:
    """`Retry-After` in whole seconds with a 503."""
    if status != 503:
        return {}
    return {"Retry-After": str(max(1, math.ceil(max((w or 0.0 for w in waits_s), default=0.0))))}


def _error(status: int, code: str, message: str, **fields: Any) -> JSONResponse:
    body = ErrorBody(error=ErrorDetail(code=code, message=message, **fields))
    return JSONResponse(body.model_dump(exclude_none=True), status, retry_headers(status, ()))


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Paths and reasons only: `input` would send the text back, and into whoever logs the answer.
    fields = []
    for e in error.errors():
        not_json = e["type"] == "json_invalid"
        reason = f"{e['msg']}: {e.get('ctx', {}).get('error', '')}" if not_json else e["msg"]
        fields.append({"field": "body" if not_json else field_path(e["loc"]), "message": reason})
    first = fields[0] if fields else {"field": "body", "message": "invalid"}
    return _error(422, "invalid_request", f"{first['field']}: {first['message']}", fields=fields)


async def _on_request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    message = f"{error.what}; {error.why}" if error.why else error.what
    return _error(STATUS.get(error.code, 422), error.code, message)


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
    return _error(error.status_code, codes.get(error.status_code, "bad_request"), str(error.detail))


async def _on_bug(_: Request, error: Exception) -> JSONResponse:
    return _error(500, "internal", f"{type(error).__name__}; see the gateway's log")


class BodyLimit:
    """ASGI middleware: a body over `max_body_bytes` is answered 413, by its stated length or while it comes in."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        message = f"the body is over {self.max_body_bytes} bytes; send fewer items in a request"
        stated = dict(scope["headers"]).get(b"content-length", b"")
        if stated.isdigit() and int(stated) > self.max_body_bytes:
            await _error(413, "body_too_large", message)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > self.max_body_bytes:
                raise HTTPException(413, message)
            return part

        await self.app(scope, counted, send)
