"""Hand what was seen to Ray's metrics, once a second. Called by `replica` and `gateway`.

By `ray.serve.metrics`, whose labels `application`, `deployment` and `replica` are those of Serve's own metrics, so that
both join. They cost no series: Ray tells the processes of a node apart anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray import serve
from ray.serve import metrics as ray_metrics
from ray.serve.exceptions import RayServeException

from rmray.config.serve import name_of_app
from rmray.serving.engine import ScoringEngine
from rmray.serving.metrics import REPLICA, Metric, Reading, read_bins, read_rewards, read_seen
from rmray.serving.observed import Observed
from rmray.serving.window import RewardFigures, RewardWindow

logger = logging.getLogger(__name__)

PUSH_S = 1.0
"""Ray itself sends what it was told every ten seconds."""
AT_ONCE = 32
"""Readings of some ten microseconds each."""

Push = Callable[[Reading], None]


def open_metrics(table: Mapping[str, Metric], labels: Mapping[str, str]) -> Push:
    """Make the metrics of a table in Ray; what is returned takes a reading of one of them. labels: that all have."""
    pushes: dict[str, Callable[..., None]] = {}
    for name, metric in table.items():
        keys: Any = (*labels, *metric.labels)
        if metric.kind == "histogram":
            of: Any = ray_metrics.Histogram(name, metric.meaning, list(metric.bounds), keys)
            pushes[name] = of.observe
        elif metric.kind == "gauge":
            of = ray_metrics.Gauge(name, metric.meaning, keys)
            pushes[name] = of.set
        else:
            of = ray_metrics.Counter(name, metric.meaning, keys)
            pushes[name] = of.inc
        of.set_default_tags(dict(labels))
    return lambda reading: pushes[reading.metric](reading.value, reading.labels)


class ReplicaMetrics:
    """Pushes what one replica saw, from `start` to `stop`, on the running event loop."""

    def __init__(self, engine: ScoringEngine, observed: Observed, push: Push) -> None:
        self._engine, self._observed, self._push = engine, observed, push
        self._window = RewardWindow(getattr(engine.scorer, "reference", None))
        self._figures: RewardFigures | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._observed.take()  # what was scored before is no caller's
        self._task = asyncio.get_running_loop().create_task(self._run(), name="rmray-metrics")

    def stop(self) -> None:
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    async def push(self) -> None:
        """Once: everything since the last time."""
        for n, reading in enumerate(self._readings(), 1):
            self._push(reading)
            if n % AT_ONCE == 0:
                await asyncio.sleep(0)  # calls come between

    def _readings(self) -> Iterable[Reading]:
        engine, seen = self._engine, self._observed.take()
        yield Reading("rmray_queue_tokens", engine.queued_tokens, {})
        yield Reading("rmray_queue_requests", engine.num_waiting, {})
        yield from read_seen(seen)
        if seen.rewards:
            self._window.add(seen.rewards)
            self._figures = self._window.figures()
            if self._window.bins is not None:
                yield from read_bins(self._window.bins, seen.rewards)
        if self._figures is not None:
            yield from read_rewards(self._figures)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PUSH_S)
            try:
                await self.push()
            except Exception:  # a replica scores on, whatever becomes of its figures
                logger.exception("this second's metrics are lost")


def start_metrics(engine: ScoringEngine, observed: Observed) -> ReplicaMetrics | None:
    """Begin to push what this replica sees. None outside Serve, where nobody listens."""
    try:
        app = serve.get_replica_context().app_name
    except RayServeException:
        return None
    version = engine.scorer.info.model_version
    labels = {"model": name_of_app(app, version), "version": version}
    metrics = ReplicaMetrics(engine, observed, open_metrics(REPLICA, labels))
    metrics.start()
    return metrics
