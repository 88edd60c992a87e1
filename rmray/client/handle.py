"""The client's door to Ray: a transport over Serve handles, found through the alias of a name. Called by `rewards`.

Also `run_rollouts`, which lets Ray actors do what an RL loop does (`rollouts`). Ray is imported on first use.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rmray.aliases import KnownAliases
from rmray.config.serve import ALIAS_ACTOR, RAY_NAMESPACE, SCORER_DEPLOYMENT, ServedModel
from rmray.errors import ClusterError, RequestError
from rmray.retry import TryAgainError, code_of_ray_error
from rmray.schema import ScoreRequest, ScoreResponse

if TYPE_CHECKING:
    from rmray.client.rollouts import RolloutPrompt, RolloutReport, RolloutSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Connection:
    """What a process knows of the aliases of the cluster that it is connected to, for all its clients. ray: the node
    and the job that the process had there, which no two connections share."""

    ray: tuple[str, str]
    aliases: KnownAliases


_connection: _Connection | None = None
_connecting = threading.Lock()


def _connected() -> _Connection:
    """Another one after every `ray.init`. ClusterError where this process is not connected."""
    import ray

    global _connection
    if not ray.is_initialized():
        raise ClusterError(
            "this process is not connected to Ray",
            where="RewardClient.connect",
            next_step="call ray.init(address=...) first, with RAY_AUTH_MODE=token set where it asks for a token",
        )
    context = ray.get_runtime_context()
    here = (context.get_node_id(), context.get_job_id())
    with _connecting:
        if _connection is None or _connection.ray != here:
            _connection = _Connection(here, KnownAliases(_alias_actor))
        return _connection


class HandleTransport:
    """Scores by a handle of the Serve app that the alias of `name` points to. Pickles as its name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._connection: _Connection | None = None
        self._handles: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return HandleTransport, (self._name,)

    async def resolve(self, *, refresh: bool, timeout_s: float) -> ServedModel:
        """The model behind the name. RequestError `unknown_model` with the names, ClusterError without a cluster."""
        connection = _connected()
        if self._connection is not connection:
            self._connection, self._handles = connection, {}
        known = None if refresh else connection.aliases.trusted()
        if known is None or self._name not in known:
            known = await _within(connection.aliases.ask(), timeout_s)
        if self._name not in known:
            raise _unknown(self._name, known)
        model = known[self._name]
        if not self._handles.keys() <= model.apps:
            self._handles = {app: handle for app, handle in self._handles.items() if app in model.apps}
        return model

    async def send(
        self, model: ServedModel, requests: Sequence[ScoreRequest], *, timeout_s: float
    ) -> list[ScoreResponse]:
        """One handle call. TryAgainError with what Ray or Serve says; RequestError `deadline`."""
        handle = self._handles.get(model.app)
        if handle is None:
            from ray import serve

            handle = self._handles[model.app] = serve.get_deployment_handle(SCORER_DEPLOYMENT, model.app)
        response = handle.score.remote(list(requests), timeout_s)
        try:
            answers: list[ScoreResponse] = await _within(response, timeout_s)
        except BaseException as error:
            # What nobody waits for any more must not take the forward's time. Best effort: `cancel` raises again what
            # the call raised.
            with contextlib.suppress(Exception):
                response.cancel()
            if isinstance(error, TryAgainError) and error.code == "stale":
                self._handles.pop(model.app, None)
            raise
        return answers

    def close(self) -> None:
        self._handles.clear()


def _alias_actor() -> Any:
    """The actor that knows the aliases. Blocks for a moment."""
    import ray

    try:
        return ray.get_actor(ALIAS_ACTOR, namespace=RAY_NAMESPACE)
    except ValueError:
        raise RequestError(
            "unknown_model", "this cluster serves no reward model", next_step="deploy one with `rmray serve`"
        ) from None


def _unknown(name: str, known: dict[str, ServedModel]) -> RequestError:
    return RequestError(
        "unknown_model",
        f"no reward model named {name!r} is served",
        why=f"served: {', '.join(sorted(known)) or 'none'}",
        next_step="use one of these names, or deploy one with `rmray serve`",
    )


async def _within(call: Awaitable[T], timeout_s: float) -> T:
    """The call's result, with Ray's exceptions in our words."""

    async def wait() -> T:
        return await call

    try:
        return await asyncio.wait_for(wait(), timeout_s)
    except TimeoutError:
        raise RequestError(
            "deadline", f"no answer within {timeout_s:.1f} s", next_step="raise timeout_s, or add replicas"
        ) from None
    except Exception as error:
        code = code_of_ray_error(error)
        if code is None:
            raise
        raise TryAgainError(code, f"{type(error).__name__} from Ray", why=str(error).splitlines()[0][:200]) from error


def run_rollouts(
    name: str,
    prompts: Sequence[RolloutPrompt],
    settings: RolloutSettings,
    *,
    num_actors: int = 2,
    address: str | None = None,
) -> RolloutReport:
    """Let `num_actors` Ray actors roll out against the served model `name` at once, and gather what they measured.

    address: of the cluster to join where this process is not connected yet; None: RAY_ADDRESS, or the one running here.
    """
    import ray

    from rmray.client.rewards import RewardClient
    from rmray.client.rollouts import RolloutActor, merge_stats
    from rmray.connect import join

    join(address)
    with RewardClient.connect(name, timeout_s=settings.timeout_s):
        pass  # an unknown name is told here, not out of an actor
    actor: Any = ray.remote(num_cpus=0)(RolloutActor)
    actors: list[Any] = [actor.remote(name, list(prompts), settings, seed) for seed in range(num_actors)]
    try:
        ray.get([a.ready.remote() for a in actors])  # started and connected before the clock runs
        start_s = time.perf_counter()
        stats = ray.get([a.run.remote() for a in actors])
        took_s = time.perf_counter() - start_s
    finally:
        for a in actors:
            ray.kill(a)
    return merge_stats(stats, took_s=took_s)
