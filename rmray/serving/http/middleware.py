"""What every request passes, whatever its route: an id, a key, bounds on its body. Put around the app by `app`."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
import uuid
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmray.serving.http.errors import error_answer
from rmray.serving.http.keys import ApiKeys

logger = logging.getLogger(__name__)

REQUEST_ID = b"x-request-id"
OPEN_PATHS = ("/healthz", "/readyz")
"""Answered without a key: probes have none, and these say nothing but yes or no."""

OnAnswer = Callable[[str, int, float], None]
"""What is told of every request: its route (`-` of a path that is none), its status, 0 where the client went away, and
the seconds it took."""

_SOUND_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestIds:
    """Outermost: the caller's `X-Request-ID`, or a new one, comes back on every answer and stands in the log.

    One line a request is logged at level info: id, method, route, status, milliseconds. Never a text, a query or a
    path that is no route. An exception that nobody expected is answered 500 and logged without its message, which may
    quote a text. answers: False behind a proxy that makes ids and puts them on answers by itself: two would differ.
    on_answer: told the same as the log, without the id.
    """

    def __init__(self, app: ASGIApp, *, answers: bool, on_answer: OnAnswer | None = None) -> None:
        self.app, self.answers, self.on_answer = app, answers, on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(REQUEST_ID, b"")
        id = given if _SOUND_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        status, start_s = 0, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.answers:
                    message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, id)]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s: %s\n%s", id.decode(), type(error).__name__, frames)
            if not status:
                message = f"{type(error).__name__}; see the gateway's log"
                await error_answer("internal", message)(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            took_s = time.perf_counter() - start_s
            logger.info("%s %s %s %d %.0f ms", id.decode(), scope["method"], route, status, 1000 * took_s)
            if self.on_answer is not None:
                self.on_answer(route, status, took_s)


class KeyGate:
    """Lets in who sends one of the keys as a bearer token. Others get 401, and are told nothing else."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._lets_in(scope):
            await error_answer("unauthorized", "send a valid API key as a bearer token")(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _lets_in(self, scope: Scope) -> bool:
        scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and self.keys.accept(key.strip().decode("utf-8", "surrogateescape"))


class BodyLimit:
    """A body over `max_body_bytes` is answered 413, by its stated length or while it comes in; one that takes longer
    than `body_timeout_s` to come in 408."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, body_timeout_s: float) -> None:
        self.app, self.max_body_bytes, self.body_timeout_s = app, max_body_bytes, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        message = f"the body is over {self.max_body_bytes} bytes; send fewer items in a request"
        stated = dict(scope["headers"]).get(b"content-length", b"")
        if stated.isdigit() and int(stated) > self.max_body_bytes:
            await error_answer("body_too_large", message)(scope, receive, send)
            return
        received, whole = 0, False
        deadline_s = asyncio.get_running_loop().time() + self.body_timeout_s

        async def counted() -> Message:
            nonlocal received, whole
            if whole:  # what comes after the body is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_s):
                    part = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not come in within {self.body_timeout_s:g} s") from None
            received += len(part.get("body", b""))
            whole = not part.get("more_body", False)
            if received > self.max_body_bytes:
                raise HTTPException(413, message)
            return part

        await self.app(scope, counted, send)
