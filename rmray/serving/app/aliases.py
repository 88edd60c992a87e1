"""The aliases: which app answers for a name. One small detached actor; clients and the gateway ask it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import cloudpickle, serve
from ray.experimental import internal_kv

from rmray.config.serve import ALIAS_ACTOR, RAY_NAMESPACE, ServedModel
from rmray.serving.app.apps import delete_app

_KEY, _NAMESPACE = b"aliases", RAY_NAMESPACE.encode()
_MAX_WAITING = 100_000
"""Questions for changes that wait at once, one a process that scores: no deployment may have to wait for room."""


@dataclass(frozen=True, slots=True)
class Alias:
    """What answers for a name, and how to start it again, and what was there before. The latter are pickled: only
    `versions` reads them, the actor has no need to import what is in them."""

    model: ServedModel
    start: bytes
    start_canary: bytes | None = None
    start_before: bytes | None = None


class Aliases:
    """The actor. Calls run one after the other, so that two deployments see each other's moves: none awaits anything
    but `changed`, which waits for the others.

    What it knows also lies in the cluster's own key-value store, and outlives the actor's process. Ray may make a call
    again that was done when the process died; whoever needs to know who answered before gives it an id, by which the
    call that changed a name last gets the answer that it got.
    """

    def __init__(self) -> None:
        raw = internal_kv._internal_kv_get(_KEY, namespace=_NAMESPACE)
        self._aliases: dict[str, Alias]
        self._answered: dict[str, tuple[str, ServedModel | None]]
        self._aliases, self._answered = cloudpickle.loads(raw) if raw else ({}, {})
        self._change = asyncio.Event()

    async def all(self) -> dict[str, ServedModel]:
        """Every name and what answers for it."""
        return {name: alias.model for name, alias in self._aliases.items()}

    async def changed(self, known: dict[str, ServedModel], wait_s: float) -> dict[str, ServedModel]:
        """As `all`, once that is something else than `known`, or when wait_s have passed."""
        models = await self.all()
        if models != known:
            return models
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._change.wait(), wait_s)
        return await self.all()

    async def find(self, name: str) -> Alias | None:
        """All that is known of a name."""
        return self._aliases.get(name)

    async def move(self, call_id: str, model: ServedModel, start: bytes) -> ServedModel | None:
        """Let `model` answer all calls for its name; returns who did before."""
        if self._is_repeated(call_id, model.name):
            return self._answered[model.name][1]
        before = self._aliases.get(model.name)
        alias = Alias(model, start)
        if before is not None:
            changes = before.model.app != model.app
            alias = replace(alias, start_before=before.start if changes else before.start_before)
        return self._change_to(alias, call_id, before)

    async def set_canary(self, call_id: str, canary: ServedModel, start: bytes, share: float) -> ServedModel | None:
        """Let `canary` answer a share of the calls for its name; returns who did before."""
        if self._is_repeated(call_id, canary.name):
            return self._answered[canary.name][1]
        before = self._aliases[canary.name]
        model = replace(before.model, canary=canary, share=share)
        return self._change_to(replace(before, model=model, start_canary=start), call_id, before)

    async def drop_canary(self, name: str, app: str) -> None:
        """Let the name's version answer all calls again, where that canary still takes a share."""
        before = self._aliases.get(name)
        if before is not None and before.model.canary is not None and before.model.canary.app == app:
            self._aliases[name] = replace(
                before, model=replace(before.model, canary=None, share=0.0), start_canary=None
            )
            self._save()

    async def remove(self, call_id: str, name: str, app: str | None = None) -> ServedModel | None:
        """Forget a name, or only where `app` answers for it still; returns who did."""
        if self._is_repeated(call_id, name):
            return self._answered[name][1]
        before = self._aliases.get(name)
        if before is None or app not in (None, before.model.app):
            return None
        del self._aliases[name]
        self._answered[name] = (call_id, before.model)
        self._save()
        return before.model

    def _is_repeated(self, call_id: str, name: str) -> bool:
        return name in self._answered and self._answered[name][0] == call_id

    def _change_to(self, alias: Alias, call_id: str, before: Alias | None) -> ServedModel | None:
        answer = None if before is None else before.model
        self._aliases[alias.model.name], self._answered[alias.model.name] = alias, (call_id, answer)
        self._save()
        return answer

    def _save(self) -> None:
        raw = cloudpickle.dumps((self._aliases, self._answered))  # type: ignore[no-untyped-call]
        internal_kv._internal_kv_put(_KEY, raw, overwrite=True, namespace=_NAMESPACE)
        change, self._change = self._change, asyncio.Event()
        change.set()


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
            max_concurrency=_MAX_WAITING,
        )
        .remote()
    )


def move_name(model: ServedModel, start: bytes) -> ServedModel | None:
    """As `Aliases.move`, once, however often Ray makes the call."""
    before: ServedModel | None = ray.get(alias_actor().move.remote(_new_call(), model, start))
    return before


def set_canary(canary: ServedModel, start: bytes, share: float) -> ServedModel | None:
    """As `Aliases.set_canary`, once."""
    before: ServedModel | None = ray.get(alias_actor().set_canary.remote(_new_call(), canary, start, share))
    return before


def remove_name(name: str, app: str | None = None) -> ServedModel | None:
    """As `Aliases.remove`, once."""
    before: ServedModel | None = ray.get(alias_actor().remove.remote(_new_call(), name, app))
    return before


def _new_call() -> str:
    return uuid.uuid4().hex


def live_models() -> dict[str, ServedModel]:
    """All names and what answers for them, without those whose app is gone: Serve's controller has to say so, and then
    they are forgotten. Where none runs nothing is live, and nothing forgotten: it may be about to come back."""
    from ray.serve.context import _get_global_client

    if _get_global_client(raise_if_no_controller_running=False) is None:
        return {}
    aliases = alias_actor()
    known: dict[str, ServedModel] = ray.get(aliases.all.remote())
    apps = serve.status().applications
    for name, model in list(known.items()):
        if model.app not in apps:
            # Only that one: meanwhile the name may have moved to an app that is there.
            remove_name(name, model.app)
            del known[name]
        elif model.canary is not None and model.canary.app not in apps:
            ray.get(aliases.drop_canary.remote(name, model.canary.app))
            known[name] = replace(model, canary=None, share=0.0)
    return known


def retire(app: str) -> None:
    """Take a replaced app down, unless a deployment beside this one has moved a name back to it."""
    known: dict[str, ServedModel] = ray.get(alias_actor().all.remote())
    if not any(app in model.apps for model in known.values()):
        delete_app(app)
