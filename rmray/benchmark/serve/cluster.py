"""The benchmark's door to Ray: a small cluster of our own, what is served on it, and actors. Called by `run`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmray.benchmark.serve.callers import Callers, Door
from rmray.benchmark.serve.figures import CLIENT, PLAIN, RAW, completions_per_s
from rmray.benchmark.serve.forwards import Forwards
from rmray.benchmark.serve.load import closed_loop
from rmray.benchmark.serve.noop import NOOP, REQUEST, NoopScorer
from rmray.benchmark.serve.settings import HANDLE, HTTP
from rmray.benchmark.serve.work import Work
from rmray.errors import ConfigError

LOGICAL_CPUS = 8
"""The processes of a run reserve their CPUs all at once and compute one after the other."""
OBJECT_STORE_BYTES = 128 * 2**20
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
"""The second: how long replicas are kept for load balancers that have not heard yet. Here nobody else asks."""
NOOP_CPUS, NOOP_ONGOING = 0.1, 100
PLAIN_DEPLOYMENT = PLAIN_APP = "plain"
FIRST_CALLS = 20
"""Not timed."""


@contextlib.contextmanager
def cluster(*, haproxy: bool = False) -> Iterator[None]:
    """Start a Ray of our own and take it down at the end, with Serve; one that this process is connected to is used.

    Ray gives its workers a lower priority than other processes have, here all have the same: the peer is none of Ray's.
    haproxy: answers HTTP instead of Serve's own proxy. ConfigError where Ray runs already: it is set as Serve starts.
    """
    import ray

    if ray.is_initialized():
        if haproxy:
            raise ConfigError(
                "this process is connected to a Ray that runs already",
                where="--haproxy",
                next_step="set RAY_SERVE_ENABLE_HA_PROXY=1 on every node before Ray starts, and leave --haproxy away",
            )
        yield
        return
    environment = {"RAY_worker_niceness": "0", **(HAPROXY if haproxy else {})}
    with _environment(environment, without=("RAY_ADDRESS", "RAY_NAMESPACE")):
        from ray import serve  # reads the environment

        ray.init(
            address="local",
            num_cpus=LOGICAL_CPUS,
            num_gpus=0,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        try:
            yield
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()


@contextlib.contextmanager
def _environment(changes: Mapping[str, str], *, without: tuple[str, ...]) -> Iterator[None]:
    saved = {name: os.environ.pop(name, None) for name in (*changes, *without)}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Remote:
    """An actor as an object whose methods return when they are done."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        import ray

        return lambda *given, **named: ray.get(getattr(self._actor, name).remote(*given, **named))


@contextlib.contextmanager
def forwards(bundle_dir: Path, work: Work, threads: int) -> Iterator[Any]:
    """A process with the bundle's scorer, which reserves as many CPUs as a replica does."""
    with _actor(Forwards, bundle_dir, work, threads, num_cpus=threads) as actor:
        yield actor


@contextlib.contextmanager
def callers(work: Work) -> Iterator[Any]:
    """The process of all callers."""
    with _actor(_HandleCallers, work, num_cpus=0) as actor:
        yield actor


@contextlib.contextmanager
def _actor(kind: type, *given: Any, num_cpus: int) -> Iterator[Remote]:
    import ray

    actor: Any = ray.remote(num_cpus=num_cpus)(kind).remote(*given)
    try:
        ray.get(actor.__ray_ready__.remote())
        yield Remote(actor)
    finally:
        ray.kill(actor)


class _HandleCallers(Callers):
    """Callers that find served names, and a plain deployment, on this cluster."""

    def __init__(self, work: Work) -> None:
        from rmray.client.handle import HandleTransport
        from rmray.client.rewards import RewardClient

        super().__init__(work, lambda name: RewardClient(HandleTransport(name)))

    async def noop(self, app: str, number: int) -> dict[str, list[float]]:
        """Seconds of `number` calls of each kind, which take turns call by call."""
        kinds = self._noop_calls(app)
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for call in kinds.values():
            await self.calls(call, FIRST_CALLS)
        names = list(kinds)
        for i in range(number):
            for place in range(len(names)):
                name = names[(place + i) % len(names)]
                seconds[name] += await self.calls(kinds[name], 1)
        return seconds

    async def noop_per_s(self, app: str, name: str, callers: int, seconds: float) -> float:
        """Calls a second with so many in flight."""
        call = self._noop_calls(app)[name]

        async def counted(_: int) -> int:
            await call()
            return 1

        return completions_per_s(await closed_loop(counted, callers=callers, seconds=seconds))

    def _noop_calls(self, app: str) -> dict[str, Callable[[], Any]]:
        from ray import serve

        from rmray.config.serve import SCORER_DEPLOYMENT

        if not hasattr(self, "_kinds"):
            plain = serve.get_deployment_handle(PLAIN_DEPLOYMENT, PLAIN_APP)
            scorer = serve.get_deployment_handle(SCORER_DEPLOYMENT, app)
            client = self._connect(NOOP)

            async def call_plain() -> None:
                await plain.score.remote(REQUEST.prompt, REQUEST.completions)

            async def call_scorer() -> None:
                await scorer.score.remote([REQUEST], 60.0)

            async def call_client() -> None:
                await client.ascore([REQUEST])

            self._kinds = {PLAIN: call_plain, RAW: call_scorer, CLIENT: call_client}
        return self._kinds


@contextlib.contextmanager
def served(name: str, bundle_dir: Path, *, replicas: int, threads: int) -> Iterator[dict[str, Door]]:
    """The bundle under `name` with so many replicas; where to ask, by handle and over HTTP."""
    from rmray.serving.app import deploy, undeploy

    deployed = deploy(
        bundle_dir, name=name, min_replicas=replicas, max_replicas=replicas, cpus=float(threads), drain_s=0.1
    )
    try:
        yield {
            HANDLE: Door(HANDLE, name),
            HTTP: Door(HTTP, f"{deployed.url}/v1/rewards", name),
        }
    finally:
        undeploy(name)


@contextlib.contextmanager
def served_noop() -> Iterator[str]:
    """A scorer that does nothing, and a plain deployment that does nothing; the app of the first."""
    from ray import serve

    from rmray.serving.app import deploy_scorer, undeploy

    deployed = deploy_scorer(
        NoopScorer,
        name=NOOP,
        model_version=NOOP,
        cpus=NOOP_CPUS,
        max_ongoing_requests=NOOP_ONGOING,
        drain_s=0.1,
    )
    plain: Any = serve.deployment(
        name=PLAIN_DEPLOYMENT,
        max_ongoing_requests=NOOP_ONGOING,
        ray_actor_options={"num_cpus": NOOP_CPUS},
    )(_Plain)
    try:
        serve.run(plain.bind(), name=PLAIN_APP, route_prefix=None)
        try:
            yield deployed.model.app
        finally:
            serve.delete(PLAIN_APP)
    finally:
        undeploy(NOOP)


class _Plain:
    """What a plain Serve deployment does at least: a score for each completion."""

    async def score(self, prompt: str, completions: tuple[str, ...]) -> list[float]:
        return [0.0] * len(completions)
