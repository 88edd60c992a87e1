"""Joining a cluster: found, silent, asking for a token."""

import os
import socket

import pytest

from rmray.connect import check_address, connected, join_or_start, probe, running_here
from rmray.errors import ClusterError


def silent_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_silent_address_is_told_at_once():
    address = silent_address()
    assert probe(address) == "silent"
    with pytest.raises(ClusterError, match="no Ray cluster answers"):
        check_address(address)


def test_an_address_left_behind_by_a_cluster_that_is_gone_is_not_joined(monkeypatch):
    address = silent_address()
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda _: address)
    assert running_here() is None


def test_a_cluster_that_asks_for_a_token_is_told_before_joining(ray_cluster, monkeypatch):
    import ray

    address = ray.get_runtime_context().gcs_address
    if os.environ.get("RAY_AUTH_MODE") != "token":
        assert probe(address) == "open"
        pytest.skip("this Ray runs without tokens")
    assert probe(address) == "token"
    check_address(address)
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE=token") as caught:
        check_address(address)
    assert "asks for a token" in str(caught.value)


def test_a_connected_process_stays_on_its_cluster(ray_cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:1")
    assert join_or_start() is False


def test_a_connection_that_was_there_stays(ray_cluster):
    import ray

    with connected():
        pass
    assert ray.is_initialized()
