"""The aliases: which app answers for a name. One small detached actor; clients and the gateway ask it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import ray
from ray.experimental import internal_kv

from rmray.config.serve import ALIAS_ACTOR, RAY_NAMESPACE, ServedModel

_KEY, _NAMESPACE = b"aliases", RAY_NAMESPACE.encode()


class Aliases:
    """The actor. Calls run one after the other, so that two deployments see each other's moves.

    What it knows also lies in the cluster's own key-value store, and outlives the actor's process.
    """

    def __init__(self) -> None:
        raw = internal_kv._internal_kv_get(_KEY, namespace=_NAMESPACE)
        self._models = {name: ServedModel(**fields) for name, fields in json.loads(raw or b"{}").items()}

    def all(self) -> dict[str, ServedModel]:
        """Every name and what answers for it."""
        return dict(self._models)

    def move(self, model: ServedModel) -> ServedModel | None:
        """Let `model` answer for its name; returns who did before."""
        before = self._models.get(model.name)
        self._models[model.name] = model
        self._save()
        return before

    def remove(self, name: str, app: str | None = None) -> ServedModel | None:
        """Forget a name, or only where `app` answers for it still; returns who did."""
        before = self._models.get(name)
        if before is None or app not in (None, before.app):
            return None
        del self._models[name]
        self._save()
        return before

    def _save(self) -> None:
        raw = json.dumps({name: asdict(model) for name, model in self._models.items()}).encode()
        internal_kv._internal_kv_put(_KEY, raw, overwrite=True, namespace=_NAMESPACE)


def alias_actor() -> Any:
    """The cluster's alias actor, made at the first call."""
    return (
        ray.remote(Aliases)
        .options(
            name=ALIAS_ACTOR,
            namespace=RAY_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
        )
        .remote()
    )
