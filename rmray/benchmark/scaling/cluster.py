"""The validation's door to Ray: paced replicas behind a name, and how many of them run. Called by `serve_runs`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rmray.benchmark.scaling.cost import ForwardCost
from rmray.benchmark.scaling.paced import VERSION, PacedScorer
from rmray.benchmark.scaling.starts import ReplicaLook
from rmray.client.handle import HandleTransport
from rmray.client.rewards import RewardClient
from rmray.config.serve import SCORER_DEPLOYMENT

CPUS = 0.1
"""A forward that sleeps takes none."""
NAME = "paced"
POLL_S = 0.1
RUNNING, STARTING = "RUNNING", "STARTING"


@contextlib.contextmanager
def served_paced(pace: ForwardCost, **options: Any) -> Iterator[str]:
    """A PacedScorer behind NAME; its app. options: fields of ServeOptions."""
    from rmray.serving.app import deploy_scorer, undeploy

    deployed = deploy_scorer(
        partial(PacedScorer, pace), name=NAME, model_version=VERSION, cpus=CPUS, drain_s=0.1, **options
    )
    try:
        yield deployed.model.app
    finally:
        undeploy(NAME)


def connect() -> RewardClient:
    """A client of NAME, with a handle of its own."""
    return RewardClient(HandleTransport(NAME))


@contextlib.contextmanager
def watched(app: str, *, clock: Callable[[], float] = time.perf_counter) -> Iterator[list[ReplicaLook]]:
    """What Serve says of the app's replicas while this is entered, look by look."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    looks: list[ReplicaLook] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            deployment = client.get_serve_details()["applications"][app]["deployments"][SCORER_DEPLOYMENT]
            states = {r["replica_id"]: r["state"] for r in deployment["replicas"]}
            running = frozenset(i for i, state in states.items() if state == RUNNING)
            starting = frozenset(i for i, state in states.items() if state == STARTING)
            looks.append(ReplicaLook(clock(), running, starting))
            done.wait(POLL_S)

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        done.set()
        thread.join()
