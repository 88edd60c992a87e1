"""Connections under real faults: what the caller is told, and that nothing is left open or told to others."""

from __future__ import annotations

import asyncio
import datetime
import gc
import ipaddress
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response

from rmray.client import HttpTransport, RewardClient
from rmray.client import connections as module
from rmray.errors import ConfigError, RequestError
from rmray.retry import TryAgainError
from tests.client.loopback import MODELS, SCORED, Loopback, Raw, Serve, reply
from tests.client.test_http import Backend, client, no_sleep, requests

KEY = "hunter2"

# Whatever is left open tells of itself as it is collected.
pytestmark = pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")


def resolve(url: str, *, timeout_s: float = 5.0) -> Any:
    return asyncio.run(HttpTransport(url, api_key=KEY).resolve(refresh=True, timeout_s=timeout_s))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        MODELS[:-5].replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
        b"SSH-2.0 secret text\r\n",
        reply({}, head="content-encoding: gzip\r\nconnection: close\r\n"),
    ],
    ids=["closed", "half a head", "half a body", "no HTTP", "not gzip"],
)
def test_a_connection_that_breaks_is_a_lost_replica_without_its_words(answer: bytes) -> None:
    with Raw(answer, answer) as server, pytest.raises(TryAgainError, match="the connection failed") as caught:
        resolve(server.url)
    assert caught.value.code == "replica_lost"
    told = "".join(traceback.format_exception(caught.value))
    assert KEY not in told
    assert "secret" not in told


def test_a_connection_that_is_refused_says_so() -> None:
    with Raw(starts=False) as nobody, pytest.raises(TryAgainError, match="Connect call failed") as caught:
        resolve(nobody.url)
    assert caught.value.code == "replica_lost"


def test_a_call_that_meets_a_closed_connection_is_sent_again() -> None:
    with (
        Raw(MODELS, SCORED, b"", SCORED) as server,
        RewardClient(HttpTransport(server.url), sleep=no_sleep) as http,
    ):
        assert [http.score_group("p", ["a"])[0].raw for _ in range(2)] == [1.0, 1.0]
        assert len(server.requests) == 4


def test_a_connection_that_does_not_come_about_is_given_up_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.1)
    start_s = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TryAgainError) as caught:
        resolve(f"https://127.0.0.1:{silent.getsockname()[1]}", timeout_s=30)  # TLS that nobody answers
    assert caught.value.code == "replica_lost"
    assert time.perf_counter() - start_s < 5


def test_calls_in_flight_do_not_wait_for_one_another(serve: Serve) -> None:
    there, all_there = 0, asyncio.Event()

    async def together(scope: Any, receive: Any, send: Any) -> None:
        nonlocal there
        there += 1
        if there == 120:
            all_there.set()
        await all_there.wait()
        await Response(None, 500)(scope, receive, send)

    async def main() -> list[Any]:
        way = HttpTransport(serve(together))
        calls = (way.resolve(refresh=True, timeout_s=20) for _ in range(120))
        return await asyncio.gather(*calls, return_exceptions=True)

    assert {error.code for error in asyncio.run(main())} == {"bad_response"}


@pytest.mark.parametrize(("idle_s", "connections"), [(module._IDLE_S, 1), (0.0, 4)])
def test_connections_are_used_again_while_they_are_fresh(
    idle_s: float, connections: int, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDLE_S", idle_s)
    ports, cookies = set(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ports.add(scope["client"][1])
        cookies.append(Request(scope).headers.get("cookie"))
        await Response(None, 500, {"set-cookie": "a=b"})(scope, receive, send)

    # By name: aiohttp's own cookie jar keeps none of an IP address either.
    with client(serve(app).replace("127.0.0.1", "localhost")) as http:
        for _ in range(4):
            with pytest.raises(RequestError):
                http.model()
    assert len(ports) == connections
    assert cookies == [None] * 4
    assert module._IDLE_S < 5


def test_an_answer_may_be_compressed_and_a_message_large(serve: Serve) -> None:
    backend = Backend()
    with client(serve(GZipMiddleware(backend.app(), minimum_size=0))) as http:
        (result,) = http.score_group("p" * 2**21, ["a"], errors="return")
        assert result.code == "over_length"  # type: ignore[union-attr]
        assert len(http.score(requests(40))) == 40


def test_an_address_of_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        server = Raw(MODELS, host="::1")
    except OSError:
        pytest.skip("no IPv6 loopback")
    with server:
        assert resolve(server.url).model_version == "v1"
    assert f"Host: {server.url.removeprefix('http://')}\r\n".encode() in server.requests[0]


def test_a_name_that_no_resolver_takes_is_the_users_to_mend() -> None:
    with pytest.raises(ConfigError, match="no address of a server"):
        resolve("http://a..b")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw(MODELS) as proxy, Raw(MODELS) as server:
        monkeypatch.setenv(name, proxy.url.replace("http://", "http://me:word@"))
        assert resolve("http://nowhere.invalid:81").model_version == "v1"
        assert proxy.requests[0].startswith(b"GET http://nowhere.invalid:81/v1/models HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6d29yZA==" in proxy.requests[0]
        monkeypatch.setenv("NO_PROXY", server.url.removeprefix("http://"))
        assert resolve(server.url).model_version == "v1"
        assert len(proxy.requests) == len(server.requests) == 1


@pytest.mark.parametrize("word", ["me:word@", ""])
def test_a_proxy_of_https_is_not_told_the_key(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Raw(reply({}, status="407 No")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", word))
        with pytest.raises(TryAgainError, match="the proxy answered 407") as caught:
            resolve("https://nowhere.invalid")
    assert proxy.requests[0].startswith(b"CONNECT nowhere.invalid:443 HTTP/1.1\r\n")
    assert (b"Proxy-Authorization: Basic bWU6d29yZA==" in proxy.requests[0]) == bool(word)
    assert KEY.encode() not in proxy.requests[0]
    assert "word" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("proxy", ["socks5://me:word@host:1080", "http://", "http://["])
def test_a_proxy_that_cannot_be_used_is_the_users_to_mend(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="the proxy that the environment names") as caught:
        resolve("http://host")
    assert "word" not in str(caught.value)


def test_what_netrc_says_of_the_host_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Raw(MODELS) as server:
        assert resolve(server.url).model_version == "v1"
    assert b"Authorization: Bearer hunter2\r\n" in server.requests[0].replace(b"authorization", b"Authorization")
    assert b"Basic" not in server.requests[0]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No certificates are named by the environment, and those that were read are forgotten."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    module._tls.cache_clear()
    yield
    module._tls.cache_clear()


@pytest.fixture
def certificate(tmp_path: Path, unread: None) -> Path:
    """Of 127.0.0.1, with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rmray test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        signed.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def test_https_is_verified_by_the_certificates_of_the_environment(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Loopback(ssl_certfile=str(certificate))
    url = server.serve(Backend().app())
    with pytest.raises(TryAgainError, match="certificate verify failed"):
        resolve(url)
    module._tls.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with client(url) as http:
        assert len(http.score(requests(2))) == 2
    server.close()
    module._tls.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("away")))
    with pytest.raises(ConfigError, match="certificates cannot be read"):
        resolve(url)


@pytest.mark.usefixtures("unread")
def test_https_trusts_the_systems_certificates_and_certifis() -> None:
    system = ssl.create_default_context()
    shipped = ssl.create_default_context(cafile=certifi.where())
    both = {c["serialNumber"] for context in (system, shipped) for c in context.get_ca_certs()}
    assert {c["serialNumber"] for c in module._tls().get_ca_certs()} == both


LEFT_OPEN = """
import asyncio, gc, logging, sys, threading, warnings
from rmray.client import HttpTransport, RewardClient

logging.basicConfig(level="WARNING")
url = sys.argv[1]


async def ask(way):
    await way.resolve(refresh=True, timeout_s=5)


client = RewardClient.connect_http(url)
client._loop.close()  # the thread behind the sync methods ends before the connections are closed
for thread in threading.enumerate():
    if thread.name == "rmray-client":
        thread.join()
del client, thread
gc.collect()
asyncio.run(ask(HttpTransport(url)))  # the loop ends and the client with it
ended = HttpTransport(url)
asyncio.run(ask(ended))  # the loop ends before the client


async def close_inside():
    way = HttpTransport(url)
    await ask(way)
    way.close()


asyncio.run(close_inside())


async def collect_inside():
    await ask(HttpTransport(url))
    gc.collect()
    await asyncio.sleep(0)


asyncio.run(collect_inside())
RewardClient.connect_http(url)  # collected, its loop runs on
gc.collect()
with RewardClient.connect_http(url) as client:
    client.model()
client = RewardClient.connect_http(url)  # open to the end of the process
warnings.filterwarnings("ignore", category=ResourceWarning)  # Python's own, of sockets of a loop that was not shut down
for _ in range(2):  # the first is let go at the next call, the second with the client
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask(ended))
    loop.close()
del loop, ended
gc.collect()
print("done")
"""


def test_nobody_is_told_of_connections_left_open(serve: Serve) -> None:
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", LEFT_OPEN, serve(Backend().app())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_client_that_is_collected_closes_its_connections(serve: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Response(None, 500)(scope, receive, send)

    async def main() -> int:
        way = HttpTransport(serve(app))
        with pytest.raises(RequestError):
            await way.resolve(refresh=True, timeout_s=5)
        session = next(iter(way._connections._held.values())).session
        del way
        gc.collect()
        while not session.closed:
            await asyncio.sleep(0)
        return 0

    asyncio.run(asyncio.wait_for(main(), 5))
