"""Put a version behind a name without a gap: new app, wait until it is sound, move the alias, drain the old one.

An app is never changed in place: that would restart its replicas under their callers. A version that does not load,
fails its goldens or can't score never gets the alias, and what served before goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve

from rmray import __version__
from rmray.config.serve import (
    GATEWAY_APP,
    SCORER_DEPLOYMENT,
    ServedModel,
    ServeOptions,
    app_name,
    check_name,
    serve_options,
)
from rmray.errors import BundleError, ClusterError, ConfigError
from rmray.models.scorer import ScorerInfo
from rmray.serving.app.aliases import alias_actor
from rmray.serving.app.cluster import check_asks_for_keys, check_capacity, ensure_http
from rmray.serving.app.gateway import gateway_application
from rmray.serving.app.recipes import Recipe, bundle_recipe
from rmray.serving.app.replica import ScorerFactory, ScorerReplica
from rmray.serving.engine import EngineLimits

POLL_S = 0.1
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Deployed:
    """What answers now. url: of the HTTP side, None where Serve runs without. replaced: the version before, if any."""

    model: ServedModel
    url: str | None
    replaced: str | None


def deploy(
    bundle_dir: str | Path,
    *,
    name: str,
    http_port: int | None = None,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Deployed:
    """Serve a bundle under `name` on the Ray cluster this process is connected to; returns when it answers.

    http_port: see `cluster.ensure_http`. tell: gets lines of progress. options: fields of ServeOptions.
    Raises BundleError: not a sound bundle (the old version goes on answering); ClusterError: no room, no such port;
    ConfigError: a wrong option or name.
    """
    recipe = bundle_recipe(bundle_dir, serve_options(**options).gpus)
    return deploy_recipe(recipe, name=name, http_port=http_port, tell=tell, **options)


def deploy_recipe(recipe: Recipe, **options: Any) -> Deployed:
    """As `deploy_scorer`, of what a recipe makes."""
    return deploy_scorer(recipe.factory, model_version=recipe.model_version, settings=recipe.settings, **options)


def deploy_scorer(
    factory: ScorerFactory,
    *,
    name: str,
    model_version: str,
    settings: str = "",
    http_port: int | None = None,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Deployed:
    """As `deploy`, of any scorer. factory: called on every replica, travels there by cloudpickle.

    model_version: what the factory's scorer must call itself, or it is refused. settings: see `Recipe`.
    """
    checked = serve_options(**options)
    check_name(name)
    check_capacity(checked)
    aliases = alias_actor()
    url = ensure_http(http_port)
    if url is not None:
        _ensure_gateway(url)
    before = _live_models().get(name)
    digest = _digest(checked, settings)
    app = _choose_app(name, model_version, digest, before)
    fresh = before is None or app != before.app
    try:
        if fresh:
            tell(f"starting {app}")
            _start(app, factory, model_version, checked)
        info = _wait_until_sound(app, checked, tell)
    except BaseException:  # an interrupt too would leave an app that no name points to
        if fresh:
            serve.delete(app)
        raise
    model = ServedModel(
        name=name,
        app=app,
        kind=info.kind,
        model_version=info.model_version,
        reference=info.reference,
        tokenizer_hash=info.tokenizer_hash,
        max_length=info.max_length,
        options_digest=digest,
    )
    replaced: ServedModel | None = ray.get(aliases.move.remote(model))
    if replaced is not None and replaced.app != app:
        tell(f"{name} is {model_version[:12]} now; {replaced.app} drains")
        try:
            time.sleep(checked.drain_s)  # clients trust the alias they know for a moment
        finally:
            _retire(replaced.app)
    return Deployed(model, url, replaced.model_version if replaced else None)


def undeploy(name: str) -> None:
    """Take a name out of service: the alias first, then its app; the gateway with the last one. ConfigError: no such
    name."""
    aliases = alias_actor()
    model: ServedModel | None = ray.get(aliases.remove.remote(name))
    left = _live_models()
    if model is None:
        raise ConfigError(f"nothing is served as {name!r}", why=f"served: {', '.join(sorted(left)) or 'none'}")
    serve.delete(model.app)
    if not left and _status(GATEWAY_APP) is not None:
        serve.delete(GATEWAY_APP)


def served_models() -> dict[str, ServedModel]:
    """Names and what answers for them on this cluster."""
    return _live_models()


def _live_models() -> dict[str, ServedModel]:
    """All aliases, without those whose app is gone (after `serve shutdown`, say): these are forgotten."""
    aliases = alias_actor()
    known: dict[str, ServedModel] = ray.get(aliases.all.remote())
    apps = serve.status().applications
    for name, model in list(known.items()):
        if model.app not in apps:
            # Only that one: meanwhile the name may have moved to an app that is there.
            ray.get(aliases.remove.remote(name, model.app))
            del known[name]
    return known


def _retire(app: str) -> None:
    """Take a replaced app down, unless a deployment beside this one has moved a name back to it."""
    known: dict[str, ServedModel] = ray.get(alias_actor().all.remote())
    if app not in {model.app for model in known.values()}:
        serve.delete(app)


def _digest(options: ServeOptions, settings: str) -> str:
    """Of everything that makes another app of the same version."""
    fields = options.model_dump(exclude={"drain_s", "start_timeout_s"})
    return hashlib.sha256(json.dumps([__version__, fields, settings], sort_keys=True).encode()).hexdigest()[:12]


def _choose_app(name: str, model_version: str, digest: str, before: ServedModel | None) -> str:
    """The app to run: the one that answers already where nothing changed, else one of a name that no live app has."""
    if (
        before is not None
        and (before.model_version, before.options_digest) == (model_version, digest)
        and _status(before.app) == "RUNNING"
    ):
        return before.app
    attempt = 0
    while True:
        app = app_name(name, model_version, attempt)
        if before is None or app != before.app:
            if _status(app) is not None:
                serve.delete(app)  # left over from a deployment that was broken off: nobody resolves to it
            return app
        attempt += 1


def _start(app: str, factory: ScorerFactory, model_version: str, options: ServeOptions) -> None:
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
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "initial_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.target_ongoing_requests,
            "upscale_delay_s": options.upscale_delay_s,
            "downscale_delay_s": options.downscale_delay_s,
        },
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        # A bundle that does not load once does not load twice.
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=60.0,
    )(ScorerReplica)
    serve.run_many(
        [serve.RunTarget(deployment.bind(factory, model_version, limits), name=app, route_prefix=None)],
        wait_for_applications_running=False,
    )


def _ensure_gateway(url: str) -> None:
    if _status(GATEWAY_APP) == "RUNNING":
        check_asks_for_keys(url)
        return
    owner = next((n for n, a in _route_prefixes().items() if a == "/" and n != GATEWAY_APP), None)
    if owner is not None:
        raise ClusterError(
            "the route / of this cluster's Serve belongs to another app",
            where=owner,
            next_step=f"take {owner} away with `serve.delete({owner!r})`, or use another cluster",
        )
    serve.run(gateway_application(), name=GATEWAY_APP, route_prefix="/")


def _route_prefixes() -> dict[str, str | None]:
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    details = client.get_serve_details() if client is not None else {}
    return {name: app.get("route_prefix") for name, app in details.get("applications", {}).items()}


def _status(app: str) -> str | None:
    found = serve.status().applications.get(app)
    return None if found is None else str(found.status.value)


def _wait_until_sound(app: str, options: ServeOptions, tell: Tell) -> ScorerInfo:
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
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            raise ClusterError(
                f"the new version did not start within {options.start_timeout_s:g} s",
                where=app,
                why=f"{message or status}; free now: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU",
                next_step="free resources, or raise start_timeout_s",
            )
        if message and message != told:
            tell(told := message)
        time.sleep(POLL_S)
    info: ScorerInfo = serve.get_deployment_handle(SCORER_DEPLOYMENT, app).info.remote().result(timeout_s=60)
    return info


def root_cause(message: str) -> str:
    """The last error of a Serve message with its own lines, without the traceback above it."""
    message = message.strip()
    ours = list(re.finditer(r"^(?:\S*\.)?rmray\.errors\.\w+: ", message, re.MULTILINE))
    if ours:
        return message[ours[-1].end() :].strip()
    lines = [line for line in message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
