"""HTTP connections: one aiohttp session for each event loop that asks. Called by `http`.

aiohttp, as httpx takes three to ten times its CPU time for a request, and rollout actors send many. It is imported on
first use; nothing is logged here, and neither the key nor a text that is scored gets into an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rmray.client.answers import Answer
from rmray.errors import ConfigError, RequestError
from rmray.retry import TryAgainError

if TYPE_CHECKING:
    import aiohttp

CONNECT_TIMEOUT_S = 10.0
"""For the name, the connection and TLS together."""
_IDLE_S = 2.0  # below the five seconds after which uvicorn closes an idle connection: no call meets a closing one
_MAX_WHOLE_BYTES = 2**20  # aiohttp warns of a larger body that is not given as a file, which it writes in parts


class Connections:
    """Asks below `url`, which `check_url` has seen. As many connections as calls in flight: none waits for another.

    A session is closed as its loop shuts down (`asyncio.run` ends so), by `close`, or when this is collected.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self._url = url
        # With each request and not the session's own: those aiohttp sends to a proxy too.
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._lock = threading.Lock()
        # A connection belongs to the event loop it was opened in.
        self._held: dict[asyncio.AbstractEventLoop, _Held] = {}
        weakref.finalize(self, _let_go, self._held)

    async def ask(self, method: str, path: str, body: str | None, timeout_s: float) -> Answer:
        """One request, whose answer is there in whole within timeout_s. Redirects are not followed.

        Raises TryAgainError `replica_lost` where the connection fails, RequestError `deadline`, ConfigError where the
        address, the proxy or the certificates that the environment names cannot be used.
        """
        import aiohttp

        headers, data = self._headers, None
        if body is not None:
            content = body.encode()
            data = content if len(content) <= _MAX_WHOLE_BYTES else io.BytesIO(content)
            headers = {**headers, "content-type": "application/json"}
        try:
            async with asyncio.timeout(timeout_s):
                session = await self._session()
                async with session.request(
                    method, self._url + path, data=data, headers=headers, allow_redirects=False
                ) as response:
                    return Answer.of(response.status, response.headers, await response.read())
        except (aiohttp.InvalidURL, UnicodeError):  # of a name that no resolver takes
            raise ConfigError(f"{self._url!r} is no address of a server") from None
        except aiohttp.ClientError as error:  # before TimeoutError, which aiohttp's own of connecting is too
            raise TryAgainError(
                "replica_lost",
                "the connection failed",
                where=self._url,
                why=_why(error),
                next_step="check that the server runs and that this is its address",
            ) from None  # the request, with the key, hangs on some of aiohttp's errors
        except TimeoutError:
            raise deadline(timeout_s) from None

    def close(self) -> None:
        """Close the connections of every loop."""
        with self._lock:
            held = list(self._held.items())
            self._held.clear()
        for loop, one in held:
            if not loop.is_running() or _runs_here(loop):
                _first_step(one.session.close())
                continue
            closing = asyncio.run_coroutine_threadsafe(_finish(one.opened), loop)
            with contextlib.suppress(Exception):
                closing.result(timeout=2.0)

    async def _session(self) -> aiohttp.ClientSession:
        """The session of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            held = self._held.get(loop)
        if held is None or held.session.closed:
            opened = _open_session(self._url)
            held = _Held(await anext(opened), opened)  # does not give way, so that no other task of the loop opens one
            with self._lock:
                ended = {known: one for known, one in self._held.items() if known.is_closed()}
                for known in ended:
                    del self._held[known]
                self._held[loop] = held
            _let_go(ended)
        return held.session


@dataclass(frozen=True, slots=True)
class _Held:
    """opened: the generator that holds the session, and closes it where it is finished."""

    session: aiohttp.ClientSession
    opened: AsyncGenerator[aiohttp.ClientSession, None]


async def _open_session(url: str) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """One session. A loop knows the generators that were started in it: it finishes them as it shuts down, and one that
    is collected before. So no connection outlives its loop, whether or not anybody has called `close`."""
    import aiohttp

    proxy = _proxy_of(url)
    secure = any(address and urlsplit(address).scheme == "https" for address in (url, proxy))
    connector = aiohttp.TCPConnector(
        limit=0,  # the caller bounds what is in flight; a hundred, aiohttp's own, would make the others wait unseen
        keepalive_timeout=_IDLE_S,
        ttl_dns_cache=int(_IDLE_S),  # a name that moves is looked up again
        ssl=_tls() if secure else True,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy,
    ) as session:
        yield session


async def _finish(opened: AsyncGenerator[Any, None]) -> None:
    await opened.aclose()


def _let_go(held: dict[asyncio.AbstractEventLoop, _Held]) -> None:
    """Of sessions whose loop is closed: where it was not shut down before, aiohttp would log that they are open. The
    generators of other loops are finished there as they are collected."""
    for loop, one in list(held.items()):
        if loop.is_closed():
            _first_step(one.session.close())
    held.clear()


def _first_step(closing: Coroutine[Any, Any, None]) -> None:
    """Run what needs no loop. aiohttp closes its connections there, and waits for their end in the steps after."""
    with contextlib.suppress(StopIteration):
        closing.send(None)
    closing.close()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _proxy_of(url: str) -> str | None:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY (or the system's settings) say of this address.

    Not aiohttp's `trust_env`: it reads them anew for each request, on a thread, passes over ALL_PROXY, and sends what
    a ~/.netrc says of the host.
    """
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or "") or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        sound = urlsplit(proxy).scheme in ("http", "https") and bool(urlsplit(proxy).hostname)
    except ValueError:
        sound = False
    if not sound:
        raise ConfigError(  # without the proxy's address, which may hold a password
            "the proxy that the environment names cannot be used",
            where=url,
            why="http and https proxies can",
            next_step="see HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or put the server's name into NO_PROXY",
        )
    return proxy


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all loops: reading the certificates takes a tenth of a second.

    The system's, where a company puts its own, and certifi's, as slim images come without any; in place of both those
    of SSL_CERT_FILE and SSL_CERT_DIR.
    """
    import certifi

    cafile, capath = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    try:
        context = ssl.create_default_context(cafile=cafile, capath=capath)
        if not (cafile or capath):
            context.load_verify_locations(certifi.where())
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            "the certificates cannot be read",
            where=" ".join(filter(None, (cafile, capath))),
            why=str(error),
            next_step="mend SSL_CERT_FILE or SSL_CERT_DIR, or unset them",
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _why(error: aiohttp.ClientError) -> str:
    """The kind of the fault, and what the operating system, or the proxy's status, says. Not the server's own words,
    which may repeat what it was sent."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{type(error).__name__}: {error.os_error}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    return type(error).__name__


def deadline(timeout_s: float) -> RequestError:
    """The error of a call that has used up its time."""
    return RequestError(
        "deadline", f"no answer within {max(timeout_s, 0.0):.1f} s", next_step="raise timeout_s, or add replicas"
    )
