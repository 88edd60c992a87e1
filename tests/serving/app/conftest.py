"""Serve on the session's Ray, once for this folder, with `alpha` served at v1."""

import pytest

from rmray.client import RewardClient
from tests.serving.app.versions import deploy
from tests.serving.shutdown import shut_serve_down


@pytest.fixture(scope="package")
def url(ray_cluster):
    """The URL of the gateway, with `alpha` served at v1; all of Serve goes down after."""
    from rmray.serving.app import undeploy
    from rmray.serving.app.cluster import ensure_http, free_port

    ensure_http(free_port("127.0.0.1"))
    yield deploy("alpha", "v1").url
    undeploy("alpha")
    shut_serve_down()


@pytest.fixture(scope="package")
def alpha(url):
    with RewardClient.connect("alpha", timeout_s=30) as client:
        yield client
