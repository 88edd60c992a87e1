"""Every fault as one JSON shape with its HTTP status, and no text of a request in it. Called by `routes` and `app`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rmray.errors import RequestError
from rmray.schema import ScoreFailure, ScoreResponse, ScoreResult
from rmray.serving.wire import ErrorBody, ErrorDetail, RewardsResponse, field_path

STATUS = {
    "unauthorized": 401,
    "unknown_model": 404,
    "body_too_slow": 408,
    "body_too_large": 413,
    "too_many_tokens": 413,
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
    "client_gone": 504,
    "deadline": 504,
}
"""HTTP status of a failure's code where nothing could be scored; every other code is the request's fault: 422."""

ANYWHERE: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (401, 408, 413, 500, 503)}
"""What any route may answer, for the OpenAPI description."""
SCORING: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorBody} for status in (400, 401, 404, 408)},
    **{status: {"model": RewardsResponse | ErrorBody} for status in (413, 422, 500, 503, 504)},
}
"""What `/v1/rewards` may answer: where nothing could be scored, the results with an error each, or the error alone."""


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


def error_answer(code: str, message: str, *, status: int | None = None, **fields: Any) -> JSONResponse:
    """The answer to a request of which nothing could be done."""
    status = STATUS.get(code, 422) if status is None else status
    body = ErrorBody(error=ErrorDetail(code=code, message=message, **fields))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else retry_headers(status, ())
    return JSONResponse(body.model_dump(exclude_none=True), status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Let the app answer its faults in this shape. What is no expected fault is left to `middleware.RequestIds`."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Paths and reasons only: `input` would send the text back, and into whoever logs the answer.
    fields = []
    for e in error.errors():
        not_json = e["type"] == "json_invalid"
        reason = f"{e['msg']}: {e.get('ctx', {}).get('error', '')}" if not_json else e["msg"]
        fields.append({"field": "body" if not_json else field_path(e["loc"]), "message": reason})
    first = fields[0] if fields else {"field": "body", "message": "invalid"}
    return error_answer("invalid_request", f"{first['field']}: {first['message']}", fields=fields)


async def _on_request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return error_answer(error.code, f"{error.what}; {error.why}" if error.why else error.what)


async def _on_http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 408: "body_too_slow", 413: "body_too_large"}
    code = codes.get(error.status_code, "bad_request")
    return error_answer(code, str(error.detail), status=error.status_code)
