"""Real servers on loopback sockets, which the client's tests ask: ASGI apps, and replies given byte for byte."""

from __future__ import annotations

import itertools
import json
import re
import socket
import socketserver
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvicorn

App = Callable[[Any, Any, Any], Awaitable[None]]
Serve = Callable[[App], str]
"""Of the fixture `serve`: the URL at which an app answers."""


class Loopback:
    """One uvicorn for all apps, each at a path of its own: starting a server takes longer than most tests."""

    def __init__(self, **options: Any) -> None:
        self._apps: dict[str, App] = {}
        self._names = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if "ssl_certfile" in options else "http"
        self._url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(self, log_level="critical", lifespan="off", **options)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()

    def serve(self, app: App) -> str:
        name = f"app{next(self._names)}"
        self._apps[name] = app
        return f"{self._url}/{name}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, name, *rest = scope["path"].split("/")
        await self._apps[name]({**scope, "path": "/" + "/".join(rest)}, receive, send)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._listener.close()


class Raw:
    """Answers each request with the next of `replies`, as it is; where it says so, or breaks off in its head, or none
    is left, the connection is closed. requests: what came in. starts: False refuses connections until `start`."""

    def __init__(self, *replies: bytes, starts: bool = True, host: str = "127.0.0.1") -> None:
        self.replies, self.requests = list(replies), []  # type: ignore[var-annotated]
        raw = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while request := self._read():
                    raw.requests.append(request)
                    reply = raw.replies.pop(0) if raw.replies else b""
                    self.wfile.write(reply)
                    if b"\r\n\r\n" not in reply or b"connection: close" in reply:
                        return

            def _read(self) -> bytes:
                head = b""
                while (line := self.rfile.readline()) != b"\r\n":
                    if not line:  # the client has gone
                        return b""
                    head += line
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                return head + b"\r\n" + (self.rfile.read(int(length[1])) if length else b"")

        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True
            block_on_close = False

        self._server = Server((host, 0), Handler, bind_and_activate=False)
        self._server.server_bind()
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_address[1]}"
        self._thread: threading.Thread | None = None
        if starts:
            self.start()

    def start(self) -> None:
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._server.shutdown()
        self._server.server_close()


def reply(body: Mapping[str, Any], *, status: str = "200 OK", head: str = "") -> bytes:
    """An answer with JSON, byte for byte. head: more header lines, each with its end."""
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\n{head}\r\n".encode() + content


CARD = {
    "id": "helpful",
    "kind": "scalar",
    "model_version": "v1",
    "reference": "r",
    "tokenizer_hash": "h",
    "max_length": 600,
}
ENTRY = {"raw": 1, "reward": 1, "quantile": 0.5, "model_version": "v1", "reference": "r", "num_tokens": 1}
MODELS = reply({"data": [CARD]})
"""One model, at version v1."""
SCORED = reply({"results": [{"id": "0.0", "completions": [ENTRY]}]})
"""One completion, scored by it."""
