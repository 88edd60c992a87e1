"""`rmray serve`: deploy, say how to ask, and stay while the cluster is our own. Called by the command line."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve as ray_serve

from rmray.config.serve import ServeOptions, check_name, serve_options
from rmray.connect import join_or_start
from rmray.serving.app.apps import Tell
from rmray.serving.app.deploy import Deployed, deploy_recipe, undeploy
from rmray.serving.app.recipes import Recipe


def serve(
    recipe_for: Callable[[ServeOptions], Recipe],
    *,
    name: str,
    http_port: int | None = None,
    canary: float | None = None,
    address: str | None = None,
    blocking: bool | None = None,
    tell: Tell = print,
    **options: Any,
) -> Mapping[str, Any]:
    """Serve a model. On a running cluster it returns when the app answers; with none to join it starts a local one.

    recipe_for: makes one of `recipes`. canary: see `deploy_recipe`. address: see `connect.join_or_start`. blocking:
    stay until SIGINT or SIGTERM, then take the app down, which answers what it has accepted; None: where the cluster
    was started here. options: fields of ServeOptions. Returns what `--json` prints.
    Raises as `deploy`, and ClusterError where the cluster can't be joined.
    """
    # What is wrong with the request is told before a cluster is started for it.
    check_name(name)
    recipe = recipe_for(serve_options(**options))
    started = join_or_start(address)
    try:
        tell(f"{'started a local Ray' if started else 'joined Ray'} at {_gcs_address()}")
        deployed = deploy_recipe(recipe, name=name, http_port=http_port, canary=canary, tell=tell, **options)
        tell(usage(deployed, _gcs_address()))
        if canary is not None:
            tell(f"for {canary:.0%} of the calls, until `rmray serve --name {name}` with --promote or --rollback")
        if started if blocking is None else blocking:
            with _stop_signals() as stop:
                tell("serving until interrupted (Ctrl-C)")
                stop.wait()
            tell("shutting down")
            undeploy(name)
    except BaseException:
        if started:
            _shut_down()
        raise
    if started and blocking is not False:
        _shut_down()
    return told(deployed)


def told(deployed: Deployed) -> Mapping[str, Any]:
    """What `--json` prints of a deployment."""
    return {
        "name": deployed.model.name,
        "app": deployed.model.app,
        "model_version": deployed.model.model_version,
        "reference": deployed.model.reference,
        "replaced": deployed.replaced,
        "url": deployed.url,
    }


def usage(deployed: Deployed, address: str) -> str:
    """How to ask, by HTTP and by handle."""
    name = deployed.model.name
    auth = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    lines = [f"serving {name}: version {deployed.model.model_version[:12]}, app {deployed.model.app}"]
    if deployed.url is not None:
        body = f'{{"model": "{name}", "items": [{{"prompt": "Hello.", "completions": ["Hello to you.", "No."]}}]}}'
        lines += [
            f"by HTTP:    {deployed.url}/v1/rewards",
            f"  curl {deployed.url}/v1/rewards -H 'content-type: application/json' -d '{body}'",
        ]
    code = (
        "import ray; from rmray.client import RewardClient; ray.init(log_to_driver=False); "
        f"print(RewardClient.connect('{name}').score_group('Hello.', ['Hello to you.', 'No.']))"
    )
    lines += ["by handle:", f'  {auth}RAY_ADDRESS={address} python -c "{code}"']
    return "\n".join(lines)


def _gcs_address() -> str:
    return str(ray.get_runtime_context().gcs_address)


def _shut_down() -> None:
    """Only for a cluster that was started here."""
    ray_serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the handlers that were there come back after."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
