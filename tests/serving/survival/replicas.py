"""What runs behind a name, by Serve's own account, and how to end it as a lost machine would."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

import psutil

from rmray.serving.app import served_models


@dataclass(frozen=True, slots=True)
class Replica:
    actor: str
    pid: int

    @property
    def memory_mib(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss) / 2**20


def replicas(name: str) -> list[Replica]:
    """The running replicas of the app that answers for a name."""
    return app_replicas(served_models()[name].app, "scorer")


def app_replicas(app: str, deployment: str) -> list[Replica]:
    """The running replicas of one deployment."""
    from ray.serve.context import _get_global_client

    applications = _get_global_client().get_serve_details()["applications"]
    found = applications.get(app, {}).get("deployments", {}).get(deployment, {}).get("replicas", [])
    return [Replica(r["actor_name"], r["pid"]) for r in found if r["state"] == "RUNNING" and r["pid"]]


def kill(replica: Replica) -> None:
    """SIGKILL to its process: no goodbye, no drain."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(replica.pid, signal.SIGKILL)
