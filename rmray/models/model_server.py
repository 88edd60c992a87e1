"""Ask a model server over HTTP, with retries inside one deadline. Called by `judge.chat_server` and `remote`.

httpx is imported on first use. Nothing is logged, and neither the key nor a text that is judged gets into an error's
`what`; its `why` may hold the server's own words, the key in them replaced.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from rmray.config.judge import ENVIRONMENT_NAME, check_url
from rmray.errors import ConfigError, RequestError
from rmray.models.server_faults import fault_of, words_of
from rmray.retry import Backoff, TryAgainError
from rmray.schema import ScoreFailure

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_TIMEOUT_S = 10.0
IDLE_S = 2.0  # below the five seconds after which uvicorn closes an idle connection: no request meets a closing one
MAX_ANSWER_BYTES = 8 * 2**20
MAX_WORDS = 300
"""Characters of a server's own words in an error."""
FATAL = frozenset({"unauthorized", "not_found"})
"""Codes that no other request would escape, as long as none has been answered."""
MAX_REFUSED = 20
"""Requests refused in a row, by a server that had answered before, after which it is asked no more."""

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class ModelServer:
    """url: where JSON is posted. api_key: sent as a bearer token. timeout_s: one deadline a request, with its retries.

    concurrency: requests in flight at once. together: timeout_s is the deadline of all that a `map` asks, for callers
    who wait for the whole; one `map` at a time then. sleep, jitter: injected.
    Raises ConfigError, without the URL in it, where that is no server's or holds a password.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        concurrency: int = 16,
        together: bool = False,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url, self.timeout_s, self.concurrency = checked_url(url), timeout_s, concurrency
        self._api_key = api_key
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._backoff = backoff or Backoff(first_s=0.25, most_s=10.0)
        self._sleep, self._jitter = sleep, jitter
        self._http: httpx.Client | None = None
        self._lock = threading.Lock()
        self._answered, self._refused_in_a_row = False, 0
        self._together, self._end_s = together, math.inf

    def __repr__(self) -> str:
        return f"ModelServer({self.url!r})"

    def map(self, ask: Callable[[Asked], Answered], items: Sequence[Asked]) -> list[Answered]:
        """ask(item) of each, in order, `concurrency` at a time; what one of them raises ends the whole."""
        if not items:
            return []
        pool = ThreadPoolExecutor(min(self.concurrency, len(items)), thread_name_prefix="rmray-ask")
        if self._together:
            self._end_s = time.monotonic() + self.timeout_s
        try:
            return list(pool.map(ask, items))
        finally:
            pool.shutdown(cancel_futures=True)
            self._end_s = math.inf

    def post(self, body: Mapping[str, Any], *, timeout_s: float | None = None) -> bytes:
        """The content of the answer, asked for until there is one or the deadline leaves no room for another attempt.

        Raises RequestError: `overloaded`, `replica_lost` or `deadline` after retries; `unauthorized`, `not_found`,
        `over_length`, `invalid_request`, `bad_response`, and `overloaded` where a deadline of all has passed, at once.
        """
        now_s = time.monotonic()
        end_s = min(now_s + (timeout_s or self.timeout_s), self._end_s)
        if end_s <= now_s:
            raise TryAgainError("overloaded", "the server left no time to ask", retry_after_s=1.0, where=self.url)
        try:
            answer = self._with_retries(json.dumps(body).encode(), end_s)
        except RequestError as error:
            with self._lock:
                self._refused_in_a_row += error.code in FATAL
            raise
        with self._lock:
            self._answered, self._refused_in_a_row = True, 0
        return answer

    def raise_if_fatal(self, error: RequestError) -> None:
        """Raise for what no other request would escape, and return where this one may fail alone.

        A refusal is fatal before the first answer. Later it may be a gateway's slip, which must not end hours of work,
        unless it comes MAX_REFUSED times in a row (more where as many are in flight at once).
        """
        if error.code not in FATAL:
            return
        with self._lock:
            answered, refused = self._answered, self._refused_in_a_row
        if not answered:
            raise error
        if refused >= max(MAX_REFUSED, 2 * self.concurrency):
            raise RequestError(
                error.code,
                f"{error.what}, {refused} times in a row after it had answered",
                where=error.where,
                why=error.why,
                next_step="see what has become of the server, the model and the key, and run again",
            )

    def redacted(self, text: str) -> str:
        """What a server wrote, without the key: some repeat what they were sent."""
        return text.replace(self._api_key, "***") if self._api_key else text

    def _with_retries(self, content: bytes, deadline_s: float) -> bytes:
        attempt = 0
        fault: TryAgainError | None = None
        while True:
            try:
                return self._once(content, deadline_s)
            except TryAgainError as error:
                # What the server said before its time was up tells more than that it was up.
                fault = error if fault is None or error.code != "deadline" else fault
                delay_s = self._backoff.delay_s(
                    attempt,
                    left_s=deadline_s - time.monotonic(),
                    jitter=self._jitter(),
                    hint_s=error.retry_after_s,
                )
                if delay_s is None:
                    raise fault from None
            self._sleep(delay_s)
            attempt += 1

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def _once(self, content: bytes, deadline_s: float) -> bytes:
        import httpx

        left_s = max(deadline_s - time.monotonic(), 0.001)
        timeout = httpx.Timeout(left_s, connect=min(CONNECT_TIMEOUT_S, left_s))
        try:
            with self._client().stream("POST", self.url, content=content, timeout=timeout) as response:
                answer = self._whole(response, deadline_s)
        except httpx.TimeoutException:
            raise self._late() from None
        except (httpx.InvalidURL, httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            what = f"the request cannot be sent ({type(error).__name__})"
            raise RequestError("invalid_request", what, where=self.url, next_step="check the address") from None
        except httpx.RequestError as error:
            raise TryAgainError(
                "replica_lost",
                f"the connection failed ({type(error).__name__})",
                where=self.url,
                next_step="check that the server runs and that this is its address",
            ) from None  # the request, with key and texts, hangs on httpx's own error
        if response.status_code == 200:
            return answer
        words = self.redacted(words_of(answer))[:MAX_WORDS]
        fault = fault_of(response.status_code, response.headers.get("retry-after"), words, self.url)
        if fault.code == "not_found" and self._answered:  # a gateway whose model is being reloaded
            raise TryAgainError(fault.code, fault.what, where=self.url, why=words)
        raise fault

    def _whole(self, response: httpx.Response, deadline_s: float) -> bytes:
        """The content, within the deadline and MAX_ANSWER_BYTES: a timeout of httpx is of one read, not of all."""
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                what = f"the server's answer is longer than {MAX_ANSWER_BYTES} bytes"
                raise RequestError("bad_response", what, where=self.url)
            if time.monotonic() > deadline_s:
                raise self._late()
        return bytes(content)

    def _late(self) -> TryAgainError:
        return TryAgainError("deadline", "the server did not answer in time", where=self.url)

    def _client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._http is None:
                self._http = httpx.Client(
                    verify=_tls(),
                    headers={"content-type": "application/json", **self._headers},
                    limits=httpx.Limits(max_connections=self.concurrency, keepalive_expiry=IDLE_S),
                )
            return self._http


def failure_of(error: RequestError) -> ScoreFailure:
    """One request's failure. Not its `why`: what a server says may repeat the text that was to be judged."""
    wait_s = error.retry_after_s if isinstance(error, TryAgainError) else None
    return ScoreFailure(code=error.code, message=error.what, retry_after_s=wait_s)


def api_key_from(name: str | None, environment: Mapping[str, str], *, where: str) -> str | None:
    """The key in the environment variable `name`, None without a name.

    Raises ConfigError, without the key in it, and without a name that may be the key itself, put in the wrong place.
    """
    if name is None:
        return None
    if not re.fullmatch(ENVIRONMENT_NAME, name):
        raise ConfigError(
            "this is no name of an environment variable",
            where=where,
            why="a name has letters, digits and _ alone; it is not repeated here, as it may be a key",
            next_step="put the key into the environment, and its variable's name here",
        )
    key = environment.get(name, "").strip()
    shown = name if name.isupper() else "that it names"
    if not key:
        raise ConfigError(f"the environment variable {shown} is not set", where=where)
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in the environment variable {shown} must be printable ASCII", where=where)
    return key


def checked_url(url: str, *, where: str = "the server's address") -> str:
    """`check_url` as a ConfigError, which does not repeat the URL."""
    try:
        return check_url(url)
    except ValueError as error:
        raise ConfigError("this is no address to ask", where=where, why=str(error)) from None


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes a tenth of a second."""
    import httpx

    return httpx.create_ssl_context()
