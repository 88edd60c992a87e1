"""A real HTTP server that the client's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.loopback import Loopback, Serve


@pytest.fixture(scope="session")
def loopback() -> Iterator[Loopback]:
    server = Loopback()
    yield server
    server.close()


@pytest.fixture
def serve(loopback: Loopback) -> Serve:
    return loopback.serve
