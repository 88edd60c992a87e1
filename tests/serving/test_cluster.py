"""Joining a cluster: found, silent, asking for a token; ports. And the options of a served model."""

import socket

import pytest

from rmray.config.serve import ServeOptions, app_name, check_name, serve_options
from rmray.errors import ClusterError, ConfigError
from rmray.serving.app.cluster import check_address, free_port, is_free, join_or_start, probe, running_here
from rmray.serving.app.deploy import root_cause


def test_a_port_in_use_is_not_free():
    port = free_port("127.0.0.1")
    assert is_free("127.0.0.1", port)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert not is_free("127.0.0.1", port)


def test_a_silent_address_is_told_at_once():
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    assert probe(address) == "silent"
    with pytest.raises(ClusterError, match="no Ray cluster answers"):
        check_address(address)


def test_an_address_left_behind_by_a_cluster_that_is_gone_is_not_joined(monkeypatch):
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda _: address)
    assert running_here() is None


def test_a_cluster_that_asks_for_a_token_is_told_before_joining(ray_cluster, monkeypatch):
    import os

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


def test_names_and_apps():
    assert app_name("helpful", "0123456789abcdef") == "helpful-0123456789ab"
    assert app_name("helpful", "0123456789abcdef", 2) == "helpful-0123456789ab-2"
    assert check_name("helpful-v1.2_b") == "helpful-v1.2_b"
    for name in ("", "a/b", "-a", "a b", "a\n"):
        with pytest.raises(ConfigError):
            check_name(name)


def test_options_are_checked_by_name():
    assert serve_options(min_replicas=2, max_replicas=3, cpus=1).max_replicas == 3
    assert serve_options() == ServeOptions()
    with pytest.raises(ConfigError, match=r"max_replicas \(1\) is less than min_replicas \(2\)"):
        serve_options(min_replicas=2)
    with pytest.raises(ConfigError, match=r"cpus: .*greater than or equal to 0"):
        serve_options(cpus=-1)
    with pytest.raises(ConfigError, match="max_queued_tokens"):
        serve_options(max_batch_tokens=300_000)


def test_the_root_cause_of_a_serve_message_is_our_error_without_its_traceback():
    message = """The deployment failed to start 1 times in a row. Error:
ray::ServeReplica:x() (pid=1)
  File "replica.py", line 3, in f
rmray.errors.BundleError: DIR: a golden differs
  why: 0.5 here, 0.7 in the bundle
  next: export again"""
    assert root_cause(message) == "DIR: a golden differs\n  why: 0.5 here, 0.7 in the bundle\n  next: export again"
    assert root_cause("one\nZeroDivisionError: division by zero\n\n") == "ZeroDivisionError: division by zero"
    assert root_cause("") == ""
