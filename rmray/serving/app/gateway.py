"""The HTTP app of a cluster: finds the app behind a name and passes the request on by handle. Made by `deploy`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from rmray.aliases import KnownAliases
from rmray.config.serve import API_KEYS_ENV, SCORER_DEPLOYMENT, ServedModel
from rmray.errors import RequestError
from rmray.retry import Backoff, code_of_ray_error
from rmray.schema import ScoreRequest, ScoreResponse
from rmray.serving.app.aliases import alias_actor
from rmray.serving.app.metrics import Push, open_metrics
from rmray.serving.http import build_http_app, read_api_keys
from rmray.serving.metrics import GATEWAY, Reading, read_answer
from rmray.serving.wire import MAX_TIMEOUT_S


class HandleBackend:
    """A ScoringBackend over Serve handles: asks again where a replica died or the alias moved, until the deadline."""

    def __init__(self, push: Push) -> None:
        self._push = push
        self._aliases = KnownAliases(alias_actor)
        self._handles: dict[str, Any] = {}
        self._backoff = Backoff()

    async def models(self) -> list[ServedModel]:
        known = self._aliases.trusted()
        if known is None:
            known = await self._aliases.ask()
        self._forget_handles(known.values())
        return list(known.values())

    async def score(
        self, model: ServedModel, requests: Sequence[ScoreRequest], *, timeout_s: float
    ) -> list[ScoreResponse]:
        deadline_s = time.monotonic() + timeout_s
        for attempt in itertools.count():
            left_s = deadline_s - time.monotonic()
            # A canary is asked once, and has half of the time: what it does not answer the version beside it does.
            asked = model if attempt else model.pick(random.random())
            try:
                return await self._call(asked.app, requests, left_s if asked is model else left_s / 2)
            except TimeoutError:
                if asked is not model:
                    continue
                raise RequestError("deadline", f"no answer within {timeout_s} s") from None
            except Exception as error:
                code = code_of_ray_error(error)
                if code is None:
                    raise
                delay_s = self._backoff.delay_s(attempt, left_s=deadline_s - time.monotonic(), jitter=random.random())
                if delay_s is None:
                    raise RequestError(code, f"{type(error).__name__} from Ray") from error
            self._push(Reading("rmray_http_retries", 1, {"code": code}))
            await asyncio.sleep(delay_s)
            if code == "stale":
                known = await self._aliases.ask()
                if model.name not in known:
                    raise RequestError("unknown_model", f"{model.name!r} is served no longer")
                model = known[model.name]
        raise AssertionError("unreachable: itertools.count has no end")

    async def _call(self, app: str, requests: Sequence[ScoreRequest], timeout_s: float) -> list[ScoreResponse]:
        handle = self._handles.get(app)
        if handle is None:
            handle = self._handles[app] = serve.get_deployment_handle(SCORER_DEPLOYMENT, app)
        response = handle.score.remote(list(requests), timeout_s)

        async def wait() -> list[ScoreResponse]:
            answers: list[ScoreResponse] = await response
            return answers

        try:
            return await asyncio.wait_for(wait(), timeout_s)
        except BaseException:
            # The client has gone, or the deadline: free the slot. Best effort: `cancel` raises what the call raised.
            with contextlib.suppress(Exception):
                response.cancel()
            raise

    def _forget_handles(self, models: Iterable[ServedModel]) -> None:
        """Of apps that answer for no name any more."""
        apps = set().union(*(model.apps for model in models))
        if not self._handles.keys() <= apps:
            self._handles = {app: handle for app, handle in self._handles.items() if app in apps}


def build_gateway() -> ASGIApp:
    """Serve calls this on every replica of the gateway. ConfigError where the file of keys is not sound."""
    path = os.environ.get(API_KEYS_ENV)
    keys = read_api_keys(path) if path else None
    push = open_metrics(GATEWAY, {})

    def on_answer(route: str, status: int, took_s: float) -> None:
        for reading in read_answer(route, status, took_s):
            push(reading)

    # Serve's proxy answers with the request's id.
    return build_http_app(HandleBackend(push), keys=keys, answers_request_id=False, on_answer=on_answer)


def gateway_application() -> serve.Application:
    """The gateway as a Serve application: light, one replica and more under load, no CPU reserved.

    It asks for a key where API_KEYS_ENV names a file of keys: in this process's environment, or in that of its node.
    """
    path = os.environ.get(API_KEYS_ENV)
    keys: dict[str, Any] = {"runtime_env": {"env_vars": {API_KEYS_ENV: path}}} if path else {}
    gateway: Any = serve.deployment(
        name="gateway",
        max_ongoing_requests=1024,  # those over it wait in the proxy's handle, at its pace; each may hold a large body
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 64},
        ray_actor_options={"num_cpus": 0, **keys},
        graceful_shutdown_timeout_s=MAX_TIMEOUT_S,  # no call takes longer
    )(serve.ingress(build_gateway)())
    application: serve.Application = gateway.bind()
    return application


def declared_gateway(_: dict[str, str]) -> serve.Application:
    """The builder that a Serve config names as its import path: under a RayService the gateway belongs to KubeRay."""
    return gateway_application()
