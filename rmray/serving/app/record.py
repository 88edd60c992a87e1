"""What is served, written down for the cluster that comes after this one, and brought back there.

A cluster's aliases end with it. Where RMRAY_SERVED_DIR names a directory on shared storage, the config of each name is
there as `NAME.yaml` from the moment that the name moves; it is what `rmray serve NAME.yaml` takes. Called by `deploy`,
`versions` and the command line; `declared_models` is the Serve app that brings all of them back by itself.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve

from rmray.config import load_config, save_config
from rmray.config.serve import SERVED_DIR_ENV, ServeConfig, ServeOptions
from rmray.errors import ClusterError, ConfigError, RmrayError
from rmray.serving.app.recipes import Recipe, recipe_of

if TYPE_CHECKING:
    from rmray.serving.app.deploy import Deployed


def write_record(name: str, recipe: Recipe, options: ServeOptions) -> None:
    """Write NAME.yaml where the environment names a directory. What code of one's own makes has no config: an older
    record of the name goes. ClusterError where it cannot be written: better no move than one that the next cluster does
    not know of."""
    directory = os.environ.get(SERVED_DIR_ENV)
    if not directory:
        return
    if not recipe.source:
        remove_record(name)
        return
    path = Path(directory) / f"{name}.yaml"
    fields = {"name": name, **recipe.source, "options": options.model_dump(exclude_unset=True)}
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.writing")  # another cluster may write it too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_config(ServeConfig.model_validate(fields), beside, exclude_unset=True)
        beside.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error


def remove_record(name: str) -> None:
    """Forget what is written of a name. ClusterError where that cannot be: the next cluster would serve it again."""
    directory = os.environ.get(SERVED_DIR_ENV)
    if not directory:
        return
    path = Path(directory) / f"{name}.yaml"
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ClusterError:
    return ClusterError(
        "what is served cannot be written down",
        where=str(path),
        why=str(error),
        next_step=f"make the directory that {SERVED_DIR_ENV} names one that can be written to, or unset it",
    )


def restore(directory: str | Path, *, tell: Callable[[str], None] = lambda _: None) -> list[Deployed]:
    """Serve every model that is written down in a directory, on the cluster this process is connected to.

    A name that is served with a canary beside it stays so. One that cannot be served keeps no other from it; at the end
    ClusterError names them. ConfigError: no directory.
    """
    from rmray.serving.app.aliases import live_models
    from rmray.serving.app.deploy import deploy_recipe

    if not Path(directory).is_dir():
        raise ConfigError(
            "there is no such directory of served models",
            where=str(directory),
            next_step=f"set {SERVED_DIR_ENV} where `rmray serve` runs, to have them written down",
        )
    deployed: list[Deployed] = []
    faults: list[str] = []
    for path in sorted(Path(directory).glob("*.yaml")):
        try:
            config = load_config(ServeConfig, path)
            recipe, fields = recipe_of(config), config.options.model_dump(exclude_unset=True)
            served = live_models().get(config.name)
            if served is not None and served.canary is not None and served.model_version == recipe.model_version:
                continue  # nothing is lost: whoever asks has been moved to another node, and would end the trial
            deployed.append(deploy_recipe(recipe, name=config.name, tell=tell, **fields))
        except RmrayError as error:
            faults.append(f"{path}: {error}")
    if faults:
        raise ClusterError(
            f"{len(faults)} of {len(faults) + len(deployed)} models cannot be served again",
            where=str(directory),
            why="\n       ".join(faults),
            next_step="mend them, or take their files away; the others are served",
        )
    return deployed


class Restorer:
    """Serve's class of the app below: it runs once every model does, and not at all where one cannot be served."""

    async def __init__(self, directory: str) -> None:  # type: ignore[misc]
        await asyncio.to_thread(restore_if_any, directory)


def restore_if_any(directory: str) -> None:
    """As `restore`; on the first cluster of all nothing is written down yet."""
    if Path(directory).is_dir():
        restore(directory)


def declared_models(arguments: Mapping[str, str]) -> serve.Application:
    """The builder that a Serve config names as its import path: KubeRay sends callers to a new cluster only when all of
    its apps run, this one among them. arguments: `directory`, as RMRAY_SERVED_DIR names it."""
    restorer: Any = serve.deployment(name="models", ray_actor_options={"num_cpus": 0})(Restorer)
    application: serve.Application = restorer.bind(arguments["directory"])
    return application
