"""What `rmray serve` can serve: how each replica makes its scorer, and which version that is. Used by `deploy`.

A recipe travels to the replicas and holds no key: a replica reads it from its own environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rmray.config import load_config
from rmray.config.judge import JudgeConfig, JudgeSection
from rmray.config.serve import ServeConfig
from rmray.errors import ConfigError
from rmray.models.scorer import Scorer
from rmray.serving.app.health import CheckMaker
from rmray.serving.app.replica import ScorerFactory
from rmray.serving.source_scorer import SourceScorer, grade_cost, pair_cost, text_cost

SERVED_TIMEOUT_S = 30.0
"""Of all that a forward asks, where no config says another: callers wait, and try again themselves."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """factory: called on every replica. model_version: what its scorer calls itself. settings: what else makes another
    app of the same version, such as an address. check_maker: see `health`. source: the fields of a ServeConfig that say
    so, none where the factory is somebody's own."""

    factory: ScorerFactory
    model_version: str
    settings: str = ""
    check_maker: CheckMaker | None = None
    source: Mapping[str, Any] = field(default_factory=dict)


def bundle_recipe(bundle_dir: str | Path, gpus: float, dtype: str = "auto") -> Recipe:
    """A bundle, loaded from the same path on every node. Raises BundleError."""
    from rmray.models.bundle import read_manifest

    directory = str(Path(bundle_dir).expanduser().absolute())
    return Recipe(
        partial(load_scorer, directory, gpus, dtype),
        read_manifest(Path(directory)).model_version,
        settings=directory,  # a copy may be damaged, and replicas to come load from where the app's first did
        check_maker=partial(golden_check, directory, gpus, dtype),
        source={"bundle": directory},
    )


def load_scorer(bundle_dir: str, gpus: float, dtype: str = "auto") -> Scorer:
    """Load a bundle on this replica's device and check it: files, rules, goldens. Raises BundleError."""
    from rmray.models.bundle import load_bundle

    return load_bundle(bundle_dir, **_place(gpus, dtype))


def golden_check(bundle_dir: str, gpus: float, dtype: str, scorer: Scorer) -> Callable[[], None]:
    """The check of a bundle that `load_scorer` loaded: a golden of it, with its score."""
    from rmray.models.bundle.recheck import recheck

    return recheck(bundle_dir, scorer, **_place(gpus, dtype))


def _place(gpus: float, dtype: str) -> dict[str, Any]:
    """Device and dtype of a bundle's weights on a replica."""
    import torch

    return {"device": "cuda" if gpus else "cpu", "dtype": None if dtype == "auto" else getattr(torch, dtype)}


def recipe_of(config: ServeConfig) -> Recipe:
    """Of what a config names. Raises as the recipe does."""
    options = config.options
    if config.judge is not None:
        return recipe_of_judge(config.judge, options.gpus)
    if config.remote is not None:
        return remote_recipe(config.remote.url, config.remote.bundle_rules, config.remote.key_env)
    assert config.bundle is not None
    return bundle_recipe(config.bundle, options.gpus, options.dtype)


def judge_recipe(path: str | Path, gpus: float) -> Recipe:
    """The judge of a config file, as `recipe_of_judge`."""
    return recipe_of_judge(load_config(JudgeConfig, path).judge, gpus)


def recipe_of_judge(section: JudgeSection, gpus: float) -> Recipe:
    """A judge. No server is asked and no weights are loaded: replicas do that.

    Raises ConfigError, ModelError.
    """
    from rmray.models.judge.open import describe_backend, judge_version

    config = _settled(section, gpus)
    version = judge_version(config, describe_backend(config))
    source = {"judge": config.model_dump(mode="json", exclude_unset=True)}
    return Recipe(partial(load_judge, config, gpus), version, config.model_dump_json(), source=source)


def remote_recipe(url: str, bundle_dir: str | Path, key_env: str | None) -> Recipe:
    """A reward model on a vLLM server by the rules of a bundle. Raises BundleError, ConfigError."""
    from rmray.models.bundle import read_manifest

    directory = Path(bundle_dir).expanduser().absolute()
    factory = partial(load_remote, url, str(directory), key_env)
    source = {"remote": {"url": url, "bundle_rules": str(directory), "key_env": key_env}}
    return Recipe(factory, read_manifest(directory).model_version, f"{url} {key_env}", source=source)


def load_judge(config: JudgeSection, gpus: float, *, environment: Mapping[str, str] = os.environ) -> Scorer:
    """Open a judge on this replica: its model is loaded, or its server has answered. Raises as `open_judge`."""
    import torch

    from rmray.models.judge.open import build_judge, open_backend

    _check_key(config.api_key_env, environment)
    device = torch.device("cuda" if gpus else "cpu")
    backend = open_backend(config, environment=environment, device=device, together=True)
    return SourceScorer(build_judge(config, backend), pair_cost if config.mode == "pairwise" else grade_cost)


def load_remote(
    url: str, bundle_dir: str, key_env: str | None, *, environment: Mapping[str, str] = os.environ
) -> Scorer:
    """Open a remote model on this replica; the server is asked for the bundle's goldens. Raises as `open_remote`."""
    from rmray.models.model_server import api_key_from
    from rmray.models.remote import open_remote

    _check_key(key_env, environment)
    key = api_key_from(key_env, environment, where="--remote-key-env")
    remote = open_remote(url, bundle_dir, api_key=key, timeout_s=SERVED_TIMEOUT_S, together=True)
    return SourceScorer(remote, text_cost)


def _check_key(name: str | None, environment: Mapping[str, str]) -> None:
    if name is not None and not environment.get(name, "").strip():
        raise ConfigError(
            "the environment variable with the key is not set on the replica's node",
            why="a key does not travel with the app: replicas read it from their own environment",
            next_step="set it on every node before `ray start`, or give it to the pods as a secret",
        )


def _settled(config: JudgeSection, gpus: float) -> JudgeSection:
    """What is left to the machine, settled here, so that every replica opens the same judge."""
    changed: dict[str, object] = {}
    if config.backend == "openai" and "timeout_s" not in config.model_fields_set:
        changed["timeout_s"] = SERVED_TIMEOUT_S
    if config.backend == "transformers":
        changed["dtype"] = ("bfloat16" if gpus else "float32") if config.dtype == "auto" else config.dtype
        if (directory := Path(config.model).expanduser()).is_dir():
            changed["model"] = str(directory.absolute())
    return config.model_copy(update=changed)
