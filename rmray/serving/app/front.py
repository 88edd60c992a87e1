"""See that the gateway, which answers HTTP for all names, runs. Called by `deploy`."""

from __future__ import annotations

import time
from typing import Any

from ray import serve

from rmray.config.serve import GATEWAY_APP
from rmray.errors import ClusterError
from rmray.serving.app.apps import POLL_S, app_message, app_status
from rmray.serving.app.cluster import check_asks_for_keys
from rmray.serving.app.gateway import gateway_application

_UNDER_WAY = ("NOT_STARTED", "DEPLOYING", "DELETING")


def ensure_gateway(url: str, *, timeout_s: float) -> None:
    """Wait for a gateway that somebody else starts, or start one; one that is declared is its owner's to mend.

    Raises ClusterError: it does not come within timeout_s, it does not start, another app has its route.
    """
    deadline_s = time.monotonic() + timeout_s
    details = _applications()
    declared = details.get(GATEWAY_APP, {}).get("source") == "declarative"
    # Serve brings an unhealthy one back by itself, where its replicas can run.
    status = _status_after(deadline_s, (*_UNDER_WAY, "UNHEALTHY") if declared else _UNDER_WAY)
    if status == "RUNNING":
        check_asks_for_keys(url)
        return
    if status in _UNDER_WAY or (declared and status is not None):
        raise _not_running(status, timeout_s, declared=declared)
    owner = next((n for n, app in details.items() if app.get("route_prefix") == "/" and n != GATEWAY_APP), None)
    if owner is not None:
        raise ClusterError(
            "the route / of this cluster's Serve belongs to another app",
            where=owner,
            next_step=f"take {owner} away with `serve.delete({owner!r})`, or use another cluster",
        )
    target = serve.RunTarget(gateway_application(), name=GATEWAY_APP, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    status = _status_after(deadline_s, _UNDER_WAY)
    if status != "RUNNING":
        raise _not_running(status, timeout_s, declared=False)


def _status_after(deadline_s: float, under_way: tuple[str, ...]) -> str | None:
    """The gateway's status when it is none of those, or at the deadline."""
    while (status := app_status(GATEWAY_APP)) in under_way and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return status


def _not_running(status: str | None, timeout_s: float, *, declared: bool) -> ClusterError:
    mend = "mend it and serve again; where it is the API keys, put their file on every node"
    if declared:
        mend = "it is declared in the Serve config: mend it there, or have KubeRay do so, and serve again"
    elif status in _UNDER_WAY:
        mend = "see with `serve status` what it waits for, or raise start_timeout_s"
    late = declared or status in _UNDER_WAY
    return ClusterError(
        f"the gateway, which answers HTTP, does not {f'run after {timeout_s:g} s' if late else 'start'}",
        where=GATEWAY_APP,
        why=app_message(GATEWAY_APP) or str(status),
        next_step=mend,
    )


def _applications() -> dict[str, dict[str, Any]]:
    """What Serve has, by name."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    applications: dict[str, dict[str, Any]] = client.get_serve_details()["applications"] if client is not None else {}
    return applications
