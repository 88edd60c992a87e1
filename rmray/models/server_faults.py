"""What a model server means by an answer other than 200: which fault, and whether asking again may mend it. Pure.

Called by `model_server`.
"""

from __future__ import annotations

import json

from rmray.errors import RequestError
from rmray.retry import TryAgainError, retry_after_seconds

_BUSY, _LOST = (429, 503, 529), (408, 409, 500, 502, 504, *range(520, 529))
_FINAL = {
    400: ("invalid_request", "the server refuses the request"),
    401: ("unauthorized", "the server refuses the key"),
    403: ("unauthorized", "the server refuses the key"),
    404: ("not_found", "the server knows no such model, or no such route"),
    413: ("over_length", "the request is too large for the server"),
    422: ("invalid_request", "the server refuses the request"),
}
_TOO_LONG = ("context length", "context_length", "maximum context", "max_model_len", "too long")


def fault_of(status: int, retry_after: str | None, words: str, url: str) -> RequestError:
    """What a status other than 200 means: TryAgainError where asking again may mend it.

    words: the server's own, which may repeat text that was to be judged; of a refused key nothing is told.
    """
    if status in (*_BUSY, *_LOST):
        code, what = ("overloaded", "is busy") if status in _BUSY else ("replica_lost", "failed")
        hint_s = retry_after_seconds(retry_after)
        return TryAgainError(code, f"the server {what} ({status})", retry_after_s=hint_s, where=url, why=words)
    if status in (400, 422) and any(mark in words.lower() for mark in _TOO_LONG):
        return RequestError("over_length", "the request is longer than the model takes", where=url, why=words)
    code, what = _FINAL.get(status, ("bad_response", "the server answered in a way that is not understood"))
    return RequestError(code, f"{what} ({status})", where=url, why="" if code == "unauthorized" else words)


def words_of(content: bytes) -> str:
    """The message in an error's JSON, as vLLM and OpenAI write it."""
    try:
        body = json.loads(content)
        error = body.get("error", body)
        message = error.get("message") if isinstance(error, dict) else error
    except (AttributeError, RecursionError, ValueError):
        return ""
    return message if isinstance(message, str) else ""
