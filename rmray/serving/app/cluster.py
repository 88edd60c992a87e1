"""See that a cluster has room for a model and that Serve answers HTTP. Called by `deploy`."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping, Sequence

import httpx
import ray
from ray import serve
from ray.exceptions import RayError

from rmray.config.serve import API_KEYS_ENV, ServeOptions
from rmray.errors import ClusterError

DEFAULT_HTTP_PORT = 8000


def check_capacity(options: ServeOptions) -> None:
    """ClusterError where the cluster, even idle, has no room for the first replicas: they would be pending for ever."""
    first = max(1, options.min_replicas)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    room = count_room(nodes, cpus=options.cpus, gpus=options.gpus, per_node=options.max_replicas_per_node)
    if room < first:
        cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
        raise ClusterError(
            f"the cluster has no room for {first} replicas of {options.cpus:g} CPU and {options.gpus:g} GPU each",
            why=f"its {len(nodes)} node(s) have {cpus:g} CPU and {gpus:g} GPU in all, room for {room:g}",
            next_step="ask for fewer replicas, for less per replica, for more replicas per node, or add nodes",
        )


def count_room(nodes: Sequence[Mapping[str, float]], *, cpus: float, gpus: float, per_node: int | None = None) -> float:
    """Replicas that idle nodes hold, each whole on one node. nodes: the resources of each, CPU and GPU. per_node: at
    most so many on one; None: as many as fit."""
    needed = [(kind, each) for kind, each in (("CPU", cpus), ("GPU", gpus)) if each]
    most = math.inf if per_node is None else per_node
    # Ray counts in ten-thousandths: three shares of 0.1 are 0.3.
    fits = (
        min(
            (round(node.get(kind, 0.0) * 10_000) // max(1, round(each * 10_000)) for kind, each in needed),
            default=math.inf,
        )
        for node in nodes
    )
    return sum(min(most, room) for room in fits)


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
    try:
        serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
    except RayError as error:
        raise ClusterError(
            "Serve did not start on this cluster",
            where=f"{host}:{port}",
            why=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}",
            next_step="try again; a machine with too much to do may take longer than Serve waits for its HTTP proxy",
        ) from error
    return _url(host, port)


def check_asks_for_keys(url: str) -> None:
    """ClusterError where this process's environment names a file of API keys and the gateway that runs already lets
    anybody in: it was started without."""
    if not os.environ.get(API_KEYS_ENV):
        return
    try:
        status = httpx.get(f"{url}/v1/models", timeout=10.0, trust_env=False).status_code
    except httpx.HTTPError as error:
        raise ClusterError("the gateway that runs on this cluster does not answer", where=url, why=str(error)) from None
    if status != 401:
        raise ClusterError(
            "the gateway that runs on this cluster asks for no API key",
            where=url,
            why=f"{API_KEYS_ENV} is set here, and the gateway reads it once, when it starts",
            next_step="take what is served away with `serve shutdown` and deploy again, or unset the variable",
        )


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
