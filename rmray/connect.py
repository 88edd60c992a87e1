"""Join a Ray cluster or start a local one: the one place where a process of rmray connects.

Called by every door to Ray: `data.prepare`, `training.trainer`, `serving.app`, `client.handle`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import ray

from rmray.errors import ClusterError

PROBE_TIMEOUT_S = 3.0
LOCAL_OBJECT_STORE_BYTES = 512 * 2**20  # Ray's own default, 30% of memory, is more than a small machine can spare


@contextmanager
def connected(address: str | None = None, *, log_to_driver: bool = True) -> Iterator[None]:
    """As `join_or_start`; at the end a connection that was made here is closed, and a cluster started here stops."""
    was_connected = ray.is_initialized()
    join_or_start(address, log_to_driver=log_to_driver)
    try:
        yield
    finally:
        if not was_connected:
            ray.shutdown()


@contextmanager
def connected_to_running(address: str | None = None) -> Iterator[None]:
    """As `join`; at the end a connection that was made here is closed."""
    was_connected = ray.is_initialized()
    join(address)
    try:
        yield
    finally:
        if not was_connected:
            ray.shutdown()


def join_or_start(address: str | None = None, *, log_to_driver: bool = False) -> bool:
    """Connect this process to Ray; True where that started a local cluster, which the caller must shut down.

    address: of a cluster to join, or "local" for one of our own; None: RAY_ADDRESS, else the cluster that
    `ray start` left running on this machine, else one of our own. A process that is connected stays so.
    log_to_driver: show what workers print. Raises as `join`.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS") or running_here()
    if address is not None and address != "local":
        join(address, log_to_driver=log_to_driver)
        return False
    with _without("RAY_ADDRESS"):
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            logging_level=logging.WARNING,
            log_to_driver=log_to_driver,
        )
    return True


def join(address: str | None = None, *, log_to_driver: bool = False) -> None:
    """Connect this process to a running cluster, where it is not connected yet; None: RAY_ADDRESS, or the one here.

    Raises ClusterError: nobody answers there, or it asks for a token that this process does not send.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or running_here() or "auto"
    if address != "auto" and "://" not in address:
        check_address(address)
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=log_to_driver)
    except ray.exceptions.AuthenticationError as error:
        raise _needs_token(address, str(error)) from None
    except ConnectionError as error:
        raise ClusterError("no Ray cluster answers", where=address, why=str(error).splitlines()[0]) from None


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
