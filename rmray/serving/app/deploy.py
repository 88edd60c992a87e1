"""Put a version behind a name without a gap: new app, wait until it is sound, move the alias, drain the old one.

A version that does not load, fails its goldens or can't score never gets the alias, and what served before goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from rmray.config.serve import GATEWAY_APP, ServedModel, ServeOptions, check_name, check_share, serve_options
from rmray.errors import ConfigError
from rmray.serving.app.aliases import alias_actor, live_models, move_name, remove_name, retire, set_canary
from rmray.serving.app.apps import (
    Tell,
    app_status,
    choose_app,
    delete_app,
    options_digest,
    start_app,
    wait_until_sound,
)
from rmray.serving.app.claim import claimed
from rmray.serving.app.cluster import check_capacity, ensure_http
from rmray.serving.app.front import ensure_gateway
from rmray.serving.app.health import CheckMaker
from rmray.serving.app.recipes import Recipe, bundle_recipe
from rmray.serving.app.record import remove_record, write_record
from rmray.serving.app.replica import ScorerFactory


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
    canary: float | None = None,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Deployed:
    """Serve a bundle under `name` on the Ray cluster this process is connected to; returns when it answers.

    http_port: see `cluster.ensure_http`. canary: see `deploy_recipe`. tell: gets lines of progress. options: fields of
    ServeOptions.
    Raises BundleError: not a sound bundle (the old version goes on answering); ClusterError: no room, no such port, the
    name is being deployed by another process; ConfigError: a wrong option or name.
    """
    checked = serve_options(**options)
    recipe = bundle_recipe(bundle_dir, checked.gpus, checked.dtype)
    return deploy_recipe(recipe, name=name, http_port=http_port, canary=canary, tell=tell, **options)


def deploy_scorer(
    factory: ScorerFactory,
    *,
    name: str,
    model_version: str,
    settings: str = "",
    check_maker: CheckMaker | None = None,
    **options: Any,
) -> Deployed:
    """As `deploy`, of any scorer. factory: called on every replica, travels there by cloudpickle.

    model_version: what the factory's scorer must call itself, or it is refused. settings, check_maker: see `Recipe`.
    """
    return deploy_recipe(Recipe(factory, model_version, settings, check_maker), name=name, **options)


def deploy_recipe(
    recipe: Recipe,
    *,
    name: str,
    http_port: int | None = None,
    canary: float | None = None,
    tell: Tell = lambda _: None,
    **options: Any,
) -> Deployed:
    """As `deploy`, of what a recipe makes. canary: the share of calls that it takes from the version that serves, which
    stays; None: all, and that version goes."""
    checked = serve_options(**options)
    check_name(name)
    if canary is not None:
        check_share(canary)
    check_capacity(checked)
    with claimed(name):
        model, url, replaced = _take_name(recipe, checked, name, http_port, canary, tell)
    if replaced is not None:
        kept = model.apps if canary is None else {replaced.app, model.app}
        taken = "is" if canary is None else f"is for {canary:.0%} of its calls"
        drain(replaced.apps - kept, checked, lambda apps: tell(f"{name} {taken} {model.app} now; {apps} drains"))
    return Deployed(model, url, replaced.model_version if replaced else None)


def _take_name(
    recipe: Recipe, options: ServeOptions, name: str, http_port: int | None, canary: float | None, tell: Tell
) -> tuple[ServedModel, str | None, ServedModel | None]:
    """Start the recipe's app, see that it is sound, move the name or a share of it: what answers now, the URL, and what
    did before."""
    before = live_models().get(name)
    if canary is not None and before is None:
        raise ConfigError(
            f"nothing is served as {name!r} that a canary could stand beside", next_step="serve it without --canary"
        )
    url = ensure_http(http_port)
    if url is not None:
        ensure_gateway(url, timeout_s=options.start_timeout_s)
    digest = options_digest(options, recipe.settings)
    serving = [] if before is None else [before] if before.canary is None else [before, before.canary]
    app = choose_app(name, recipe.model_version, digest, serving)
    fresh = all(app != model.app for model in serving)
    try:
        if fresh:
            tell(f"starting {app}")
            start_app(app, recipe, options)
        info = wait_until_sound(app, options, tell)
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
        if canary is None:
            write_record(name, recipe, options)
        elif before is not None:
            _check_alike(before, model)
    except BaseException:  # an interrupt too would leave an app that no name points to
        if fresh:
            delete_app(app)
        raise
    start = cloudpickle.dumps((recipe, options.model_dump()))  # type: ignore[no-untyped-call]
    if canary is None:
        return model, url, move_name(model, start)
    return model, url, set_canary(model, start, canary)


def drain(apps: Iterable[str], options: ServeOptions, tell: Tell) -> None:
    """Take apps down that no name points to any more, once clients, who trust what they know for a moment, have
    noticed."""
    apps = sorted(apps)
    if not apps:
        return
    tell(", ".join(apps))
    try:
        time.sleep(options.drain_s)
    finally:
        for app in apps:
            retire(app)


def undeploy(name: str) -> None:
    """Take a name out of service: the alias first, then its apps, which answer what they have accepted; the gateway
    with the last one. ConfigError: no such name."""
    if ray.get(alias_actor().find.remote(name)) is not None:  # else what is written down is another cluster's
        remove_record(name)
    model = remove_name(name)
    left = live_models()
    if model is None:
        raise ConfigError(f"nothing is served as {name!r}", why=f"served: {', '.join(sorted(left)) or 'none'}")
    for app in sorted(model.apps):
        delete_app(app)
    if not left and app_status(GATEWAY_APP) is not None:
        delete_app(GATEWAY_APP)


def served_models() -> dict[str, ServedModel]:
    """Names and what answers for them on this cluster."""
    return live_models()


def _check_alike(serving: ServedModel, canary: ServedModel) -> None:
    """ConfigError where callers could tell by more than the scores which of the two has answered."""
    if serving.app == canary.app:
        raise ConfigError("this version serves all calls already", where=serving.app)
    for what in ("kind", "reference", "tokenizer_hash"):
        if (here := getattr(serving, what)) != (there := getattr(canary, what)):
            raise ConfigError(
                f"the canary's {what} is {there}, and that of the version that serves {here}",
                where=canary.app,
                why="a caller would get rewards that cannot be compared, or have its token ids refused now and then",
                next_step="serve it under a name of its own, or in place of the other, without --canary",
            )
