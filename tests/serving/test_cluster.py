"""Ports, and the options of a served model."""

import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn

from rmray.config.serve import API_KEYS_ENV, GATEWAY_APP, ServeOptions, app_name, check_name, serve_options
from rmray.errors import ClusterError, ConfigError
from rmray.serving.app import front
from rmray.serving.app.apps import root_cause
from rmray.serving.app.cluster import check_asks_for_keys, count_room, free_port, is_free
from rmray.serving.app.gateway import gateway_application
from rmray.serving.http import ApiKeys, build_http_app
from tests.serving.test_http import Backend


def test_a_port_in_use_is_not_free():
    port = free_port("127.0.0.1")
    assert is_free("127.0.0.1", port)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert not is_free("127.0.0.1", port)


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"),
    [(2, 0, 2), (3, 0, 2), (4, 0, 0), (0.1, 0, 60), (1, 1, 2), (3, 0.5, 1), (0, 0.5, 4), (0, 0, float("inf"))],
)
def test_a_replica_is_never_cut_in_two(cpus, gpus, room):
    assert count_room([{"CPU": 3.0}, {"CPU": 3.0, "GPU": 2.0}], cpus=cpus, gpus=gpus) == room


def test_no_node_holds_more_than_it_may():
    nodes = [{"CPU": 8.0}, {"CPU": 1.0}]
    assert [count_room(nodes, cpus=1, gpus=0, per_node=n) for n in (1, 4, None)] == [2, 5, 9]


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


@contextmanager
def running(app):
    """URL of an ASGI app on a loopback socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)


def test_a_gateway_that_lets_anybody_in_is_told_where_keys_were_meant(monkeypatch):
    with running(build_http_app(Backend())) as url:
        monkeypatch.delenv(API_KEYS_ENV, raising=False)
        check_asks_for_keys(url)
        monkeypatch.setenv(API_KEYS_ENV, "/etc/keys")
        with pytest.raises(ClusterError, match="asks for no API key"):
            check_asks_for_keys(url)
    with running(build_http_app(Backend(), keys=ApiKeys(["k" * 16]))) as url:
        check_asks_for_keys(url)
    with pytest.raises(ClusterError, match="does not answer"):
        check_asks_for_keys(f"http://127.0.0.1:{free_port('127.0.0.1')}")


def test_the_gateways_replicas_are_told_where_the_keys_are(monkeypatch):
    def variables():
        deployment = gateway_application()._bound_deployment
        return (deployment.ray_actor_options.get("runtime_env") or {}).get("env_vars", {})

    monkeypatch.delenv(API_KEYS_ENV, raising=False)
    assert variables() == {}
    monkeypatch.setenv(API_KEYS_ENV, "/etc/keys")
    assert variables() == {API_KEYS_ENV: "/etc/keys"}


@pytest.fixture
def gateway(monkeypatch):
    """gateway(*statuses, declared, message) -> the list of gateways that are started. Serve's words for the gateway
    come one after the other, the last for ever; one that is started fails."""
    started = []

    def play(*statuses, declared=False, message=""):
        left = list(statuses)

        def status(_):
            return "DEPLOY_FAILED" if started else left.pop(0) if len(left) > 1 else left[0]

        source = "declarative" if declared else "imperative"
        apps = {GATEWAY_APP: {"source": source, "route_prefix": "/"}} if statuses[0] else {}
        monkeypatch.setattr(front, "_applications", lambda: apps)
        monkeypatch.setattr(front, "app_status", status)
        monkeypatch.setattr(front, "app_message", lambda _: message)
        monkeypatch.setattr(front, "POLL_S", 0.0)
        monkeypatch.setattr(front.serve, "run_many", lambda targets, **_: started.extend(targets))
        return started

    return play


URL = "http://127.0.0.1:1"


def test_a_gateway_that_does_not_start_says_why(gateway):
    started = gateway(None, message="keys.txt: the file of API keys cannot be read")
    with pytest.raises(ClusterError, match=r"does not start\n.*keys\.txt(?s:.*)put their file on every node"):
        front.ensure_gateway(URL, timeout_s=10.0)
    assert [target.name for target in started] == [GATEWAY_APP]


def test_a_gateway_that_goes_is_waited_for_and_started_anew(gateway):
    started = gateway("DELETING", "DELETING", None)
    with pytest.raises(ClusterError):
        front.ensure_gateway(URL, timeout_s=10.0)
    assert len(started) == 1


@pytest.mark.parametrize("status", ["DEPLOYING", "NOT_STARTED", "DELETING"])
def test_a_gateway_that_does_not_come_is_waited_for_no_longer_than_asked(gateway, status):
    started = gateway(status, message="no node has room")
    with pytest.raises(
        ClusterError, match=r"does not run after 0.01 s\n.*no node has room(?s:.*)raise start_timeout_s"
    ):
        front.ensure_gateway(URL, timeout_s=0.01)
    assert not started


@pytest.mark.parametrize("statuses", [("DEPLOYING", "RUNNING"), ("UNHEALTHY", "DEPLOYING", "UNHEALTHY", "RUNNING")])
def test_a_declared_gateway_that_comes_back_is_used(gateway, monkeypatch, statuses):
    monkeypatch.delenv(API_KEYS_ENV, raising=False)
    started = gateway(*statuses, declared=True)
    front.ensure_gateway(URL, timeout_s=10.0)
    assert not started


@pytest.mark.parametrize("status", ["UNHEALTHY", "DEPLOY_FAILED"])
def test_a_declared_gateway_is_its_owners_to_mend(gateway, status):
    started = gateway(status, declared=True, message="the file of API keys is gone")
    with pytest.raises(ClusterError, match=r"rmray-gateway(?s:.*)API keys is gone(?s:.*)declared in the Serve config"):
        front.ensure_gateway(URL, timeout_s=0.01)
    assert not started
    gateway(status)
    with pytest.raises(ClusterError):
        front.ensure_gateway(URL, timeout_s=0.01)
    assert len(started) == 1, "one that nobody declares is started anew"
