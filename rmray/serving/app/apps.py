"""The Serve app of one version: its name, its start, the proof that it is sound. Called by `deploy`.

An app is never changed in place: that would restart its replicas under their callers.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection
from typing import Any

import ray
from ray import serve

from rmray import __version__
from rmray.config.serve import SCORER_DEPLOYMENT, ServedModel, ServeOptions, app_name
from rmray.errors import BundleError, ClusterError
from rmray.models.scorer import ScorerInfo
from rmray.serving.app.autoscaling import autoscaling_config
from rmray.serving.app.recipes import Recipe
from rmray.serving.app.replica import ScorerReplica
from rmray.serving.engine import EngineLimits

POLL_S = 0.1
HEALTH_PERIOD_S = 10.0
"""Serve's own; how often it asks a replica."""
Tell = Callable[[str], None]


def options_digest(options: ServeOptions, settings: str) -> str:
    """Of everything that makes another app of the same version."""
    fields = options.model_dump(exclude={"drain_s", "start_timeout_s"})
    return hashlib.sha256(json.dumps([__version__, fields, settings], sort_keys=True).encode()).hexdigest()[:12]


def choose_app(name: str, model_version: str, digest: str, serving: Collection[ServedModel]) -> str:
    """The app to run: one that answers already where nothing changed, else one of a name that no app has.

    serving: what answers for the name now.
    """
    for model in serving:
        if (model.model_version, model.options_digest) == (model_version, digest) and app_status(
            model.app
        ) == "RUNNING":
            return model.app
    attempt = 0
    while True:
        app = app_name(name, model_version, attempt)
        if all(app != model.app for model in serving):
            if app_status(app) is None:
                return app
            # Replaced and draining, or left over from a deployment that was broken off: nobody resolves to it. Its name
            # is not taken: whoever drains it would take down what came in its place.
            serve.delete(app, _blocking=False)
        attempt += 1


def start_app(app: str, recipe: Recipe, options: ServeOptions) -> None:
    """Ask Serve for it; returns before it is there."""
    limits = EngineLimits(
        max_batch_tokens=options.max_batch_tokens,
        max_queued_tokens=options.max_queued_tokens,
        patience_s=options.patience_s,
        encode_threads=options.encode_threads,
    )
    deployment: Any = serve.deployment(
        name=SCORER_DEPLOYMENT,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        autoscaling_config=autoscaling_config(options),
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        max_replicas_per_node=options.max_replicas_per_node,  # type: ignore[arg-type]
        health_check_period_s=min(HEALTH_PERIOD_S, options.check_every_s),
        # A bundle that does not load once does not load twice.
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=options.finish_s,
        graceful_shutdown_wait_loop_s=0.5,  # so often a replica that goes looks whether all is answered
        logging_config={"enable_access_log": False},  # the gateway logs requests; by handle, metrics count calls
    )(ScorerReplica)
    bound = deployment.bind(recipe.factory, recipe.model_version, limits, recipe.check_maker, options.check_every_s)
    serve.run_many([serve.RunTarget(bound, name=app, route_prefix=None)], wait_for_applications_running=False)


def app_status(app: str) -> str | None:
    """Serve's word for it; None where there is no such app."""
    found = serve.status().applications.get(app)
    return None if found is None else str(found.status.value)


def app_message(app: str) -> str:
    """The cause of what is wrong with an app's deployments; empty where Serve knows none."""
    found = serve.status().applications.get(app)
    messages = [] if found is None else [deployment.message for deployment in found.deployments.values()]
    return next(filter(None, map(root_cause, messages)), "")


def delete_app(app: str) -> None:
    """Take an app down; returns once it has answered what it has accepted, for which it has `finish_s`. (`serve.delete`
    itself gives up waiting after a minute.)"""
    serve.delete(app, _blocking=False)
    while app_status(app) is not None:
        time.sleep(POLL_S)


def wait_until_sound(app: str, options: ServeOptions, tell: Tell) -> ScorerInfo:
    """Wait for all first replicas, then let the app say who it is. BundleError, or ClusterError at the timeout."""
    deadline_s = time.monotonic() + options.start_timeout_s
    told = ""
    while True:
        found = serve.status().applications.get(app)
        status = "GONE" if found is None else found.status.value
        scorer = None if found is None else found.deployments.get(SCORER_DEPLOYMENT)
        message = (scorer.message if scorer and scorer.message else found.message if found else "") or ""
        if status == "RUNNING":
            break
        if status in ("DEPLOY_FAILED", "UNHEALTHY", "GONE", "DELETING"):
            raise BundleError(
                "the new version does not start; what served before goes on",
                where=app,
                why=root_cause(message) or status,
                next_step="mend it, of a bundle by exporting it again; the replica's log has the whole story",
            )
        if time.monotonic() > deadline_s:
            raise _too_slow(app, message or status, options)
        if message and message != told:
            tell(told := message)
        time.sleep(POLL_S)
    response = serve.get_deployment_handle(SCORER_DEPLOYMENT, app).info.remote()
    try:
        # An app that has gone to no replica since it was started loads one first.
        info: ScorerInfo = response.result(timeout_s=max(60.0, deadline_s - time.monotonic()))
    except TimeoutError:
        raise _too_slow(app, "it runs, and does not say who it is", options) from None
    return info


def _too_slow(app: str, why: str, options: ServeOptions) -> ClusterError:
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    return ClusterError(
        f"the new version did not start within {options.start_timeout_s:g} s",
        where=app,
        why=f"{why}; free now: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU",
        next_step="free resources, or raise start_timeout_s",
    )


def root_cause(message: str) -> str:
    """The last error of a Serve message with its own lines, without the traceback above it."""
    message = message.strip()
    ours = list(re.finditer(r"^(?:\S*\.)?rmray\.errors\.\w+: ", message, re.MULTILINE))
    if ours:
        return message[ours[-1].end() :].strip()
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
