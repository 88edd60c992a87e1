"""Back to the version before, and the end of a canary. Called by the command line.

The way back is that of any update: the old version is started anew, has to prove itself, and gets the name. So a
rollback of a rollback goes forward again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ray
from ray import cloudpickle

from rmray.config.serve import ServedModel, ServeOptions, serve_options
from rmray.errors import BundleError, ConfigError
from rmray.serving.app.aliases import Alias, alias_actor, live_models, move_name
from rmray.serving.app.apps import Tell
from rmray.serving.app.claim import claimed
from rmray.serving.app.cluster import ensure_http
from rmray.serving.app.deploy import Deployed, deploy_recipe, drain
from rmray.serving.app.recipes import Recipe
from rmray.serving.app.record import write_record


def roll_back(name: str, *, http_port: int | None = None, tell: Tell = lambda _: None) -> Deployed:
    """Let the version before answer for `name` again, with its own options; where a canary takes a share, end that.

    Raises ConfigError: nothing is served, or was before; BundleError: its bundle is gone, or is another by now.
    """
    alias = _alias_of(name)
    if alias.model.canary is not None:
        canary = alias.model.canary
        with claimed(name):
            ray.get(alias_actor().drop_canary.remote(name, canary.app))
        _drain(canary, alias.start_canary or alias.start, tell)
        model = replace(alias.model, canary=None, share=0.0)
        return Deployed(model, ensure_http(http_port), canary.model_version)
    if alias.start_before is None:
        raise ConfigError(
            f"nothing was served as {name!r} before {alias.model.model_version[:12]}",
            next_step="serve the bundle that is meant",
        )
    recipe, options = _read_start(alias.start_before)
    _check_is_there(recipe)
    return deploy_recipe(recipe, name=name, http_port=http_port, tell=tell, **options.model_dump())


def promote(name: str, *, http_port: int | None = None, tell: Tell = lambda _: None) -> Deployed:
    """Let the canary of `name` answer all calls. ConfigError: nothing is served, or there is no canary."""
    with claimed(name):
        alias = _alias_of(name)
        canary = alias.model.canary
        if canary is None or alias.start_canary is None:
            next_step = "start one with `rmray serve --bundle B --canary SHARE`"
            raise ConfigError(f"{name!r} has no canary", next_step=next_step)
        write_record(name, *_read_start(alias.start_canary))
        move_name(canary, alias.start_canary)
    _drain(alias.model, alias.start, tell)
    return Deployed(canary, ensure_http(http_port), alias.model.model_version)


def _alias_of(name: str) -> Alias:
    served = live_models()  # forgets what is gone
    alias: Alias | None = ray.get(alias_actor().find.remote(name))
    if alias is None:
        raise ConfigError(f"nothing is served as {name!r}", why=f"served: {', '.join(sorted(served)) or 'none'}")
    return alias


def _drain(model: ServedModel, start: bytes, tell: Tell) -> None:
    _, options = _read_start(start)
    drain([model.app], options, lambda app: tell(f"{app} drains"))


def _read_start(start: bytes) -> tuple[Recipe, ServeOptions]:
    recipe, options = cloudpickle.loads(start)
    return recipe, serve_options(**options)


def _check_is_there(recipe: Recipe) -> None:
    """BundleError where the recipe's bundle is not the one that it was; replicas would not start, and less clearly."""
    from rmray.models.bundle import read_manifest

    directory = recipe.source.get("bundle")
    if directory is None:
        return
    where = f"the version before, {recipe.model_version[:12]}, cannot be served again"
    if not Path(directory).is_dir():
        raise BundleError(
            where,
            where=directory,
            why="its directory is gone",
            next_step="put the bundle back there, or serve another one",
        )
    found = read_manifest(Path(directory)).model_version
    if found != recipe.model_version:
        raise BundleError(
            where,
            where=directory,
            why=f"the directory holds version {found[:12]} by now",
            next_step="put that bundle back, or serve it from where it is; keep each version in a directory of its own",
        )
