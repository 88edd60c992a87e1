"""Join a Ray cluster or start a local one, and see that Serve answers HTTP. Called by `deploy` and `foreground`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import ray
from ray import serve

from rmray.config.serve import ServeOptions
from rmray.errors import ClusterError

DEFAULT_HTTP_PORT = 8000
PROBE_TIMEOUT_S = 3.0


def join_or_start(address: str | None = None) -> bool:
    """Connect this process to Ray; True where that started a local cluster, which the caller must shut down.

    address: of a cluster to join, or "local" for one of our own; None: RAY_ADDRESS, else the cluster that
    `ray start` left running on this machine, else one of our own. A process that is connected stays so.
    Raises ClusterError: nobody answers there, or it asks for a token that this process does not send.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS") or running_here()
    if address is None or address == "local":
        with _without("RAY_ADDRESS"):
            ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
        return True
    if address != "auto" and "://" not in address:
        check_address(address)
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except ray.exceptions.AuthenticationError as error:
        raise _needs_token(address, str(error)) from None
    except ConnectionError as error:
        raise ClusterError("no Ray cluster answers", where=address, why=str(error).splitlines()[0]) from None
    return False


def running_here() -> str | None:
    """GCS address of the cluster that `ray start` left running on this machine, where it still answers."""
    from ray._private.utils import read_ray_address

    address = read_ray_address(None)
    if not address or probe(address) == "silent":
        return None
    return address


def check_address(address: str) -> None:
    """ClusterError where joining would end, after many seconds, in a traceback."""
    answer = probe(address)
    if answer == "silent":
        raise ClusterError(
            "no Ray cluster answers",
            where=address,
            next_step="start one with `ray start --head`, or unset RAY_ADDRESS to let rmray start its own",
        )
    if answer == "token" and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise _needs_token(address, "RAY_AUTH_MODE is not `token` in this process")


def probe(address: str) -> str:
    """`open`, `token` (it asks for one) or `silent`: what a cluster's GCS says to a stranger."""
    try:
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=PROBE_TIMEOUT_S)
    except grpc.RpcError as error:
        return "token" if error.code() == grpc.StatusCode.UNAUTHENTICATED else "silent"
    return "open"


def _needs_token(address: str, why: str) -> ClusterError:
    return ClusterError(
        "the Ray cluster asks for a token",
        where=address,
        why=why,
        next_step="set RAY_AUTH_MODE=token; the token is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
        "~/.ray/auth_token",
    )


@contextmanager
def _without(variable: str) -> Iterator[None]:
    saved = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if saved is not None:
            os.environ[variable] = saved


def check_capacity(options: ServeOptions) -> None:
    """ClusterError where the cluster, even idle, has no room for `min_replicas`: they would be pending for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    for resource, each in (("CPU", options.cpus), ("GPU", options.gpus)):
        if not each:
            continue
        largest = max((node.get(resource, 0.0) for node in nodes), default=0.0)
        total = sum(node.get(resource, 0.0) for node in nodes)
        if each > largest or each * options.min_replicas > total:
            raise ClusterError(
                f"the cluster has no room for {options.min_replicas} replicas of {each:g} {resource} each",
                why=f"it has {total:g} {resource} in all, {largest:g} on its largest node",
                next_step=f"ask for fewer replicas or fewer {resource}s per replica, or add nodes",
            )


def ensure_http(port: int | None, host: str = "127.0.0.1") -> str | None:
    """Start Serve, with HTTP, where it does not run yet; the base URL, or None where Serve runs without HTTP.

    port: None takes what runs already, else 8000, else any free one. Raises ClusterError: the port is taken, or Serve
    runs here on another one (it is started once a cluster; somebody else's is not restarted).
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        config = client.http_config
        disabled = config.host is None or str(getattr(config.location, "value", config.location)) == "Disabled"
        running = None if disabled else int(config.port)
        if port is not None and port != running:
            raise ClusterError(
                f"Serve runs on this cluster already, {'on port ' + str(running) if running else 'without HTTP'}",
                why=f"port {port} was asked for, and Serve's HTTP is set once when it starts",
                next_step="leave --http-port away to use what runs, or run `serve shutdown` on a cluster of your own",
            )
        return None if running is None else _url(config.host, running)
    if port is None:
        port = DEFAULT_HTTP_PORT if is_free(host, DEFAULT_HTTP_PORT) else free_port(host)
    elif not is_free(host, port):
        raise ClusterError(
            f"port {port} is in use",
            where=f"{host}:{port}",
            next_step="choose another --http-port, or leave it away to get a free one",
        )
    serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
    return _url(host, port)


def _url(host: str, port: int) -> str:
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"


def is_free(host: str, port: int) -> bool:
    """Whether a TCP port of this machine can be bound now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str) -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])
