"""How many replicas there should be: our policy on what Serve's controller is told, and Serve's own delays.

Called by `app`. Replicas and handles note their load every fifth of the look-back and report what they noted
every `metrics_interval_s`; the controller takes each one's mean over time, lets `desired_replicas` decide, and applies
the delays by Ray's own function, which needs no cluster. All handles report as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingConfig

from rmray.serving.scaling import DeploymentLoad, desired_replicas

RECORD_SHARE = 0.2
"""RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR: a point is noted after this share of the look-back."""
CONTROL_S = 1.0
"""Serve's controller decides every 0.1 s, which beside delays of 10 s and more is only dearer to simulate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSettings:
    """As in `config.serve.ServeOptions`; but control_s: the controller decides this often."""

    min_replicas: int = 1
    max_replicas: int = 64
    target_tokens: float = 4096
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 600.0
    metrics_interval_s: float = 2.0
    control_s: float = CONTROL_S

    @property
    def look_back_s(self) -> float:
        """What loads are averaged over, as `serving.app.autoscaling` tells Serve."""
        return 2 * self.metrics_interval_s

    @property
    def record_s(self) -> float:
        """Between two points of a series."""
        return RECORD_SHARE * self.look_back_s


class LoadReports:
    """Series of loads, noted at their sources and reported now and then."""

    def __init__(self, look_back_s: float) -> None:
        self._look_back_s = look_back_s
        self._noted: dict[Hashable, deque[tuple[float, float]]] = {}
        self._reported: dict[Hashable, tuple[tuple[float, float], ...]] = {}

    def note(self, source: Hashable, now_s: float, value: float) -> None:
        self._noted.setdefault(source, deque()).append((now_s, value))

    def push(self, source: Hashable, now_s: float) -> None:
        """Report what was noted within the look-back."""
        noted = self._noted.get(source)
        if noted:
            while noted and noted[0][0] < now_s - self._look_back_s:
                noted.popleft()
            self._reported[source] = tuple(noted)

    def forget(self, source: Hashable) -> None:
        self._noted.pop(source, None)
        self._reported.pop(source, None)

    def mean(self, source: Hashable, now_s: float) -> float:
        """Over time, from the first point reported to now; a value holds until the next. 0 where nothing is."""
        series = self._reported.get(source, ())
        if not series:
            return 0.0
        ends = [*(when_s for when_s, _ in series[1:]), max(now_s, series[-1][0] + 1e-3)]
        area = sum(value * (end_s - when_s) for (when_s, value), end_s in zip(series, ends, strict=True))
        return area / (ends[-1] - series[0][0])


class Autoscaler:
    """The controller's decision, again and again."""

    def __init__(self, settings: ScalingSettings) -> None:
        self._settings = settings
        self._config = AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
            metrics_interval_s=settings.metrics_interval_s,
            look_back_period_s=settings.look_back_s,
        )
        self._state: dict[str, Any] = {}

    def decide(
        self,
        reports: LoadReports,
        replicas: Iterable[Hashable],
        handles: Hashable,
        *,
        target: int,
        mean_call_tokens: float,
        now_s: float,
    ) -> int:
        """The new target. replicas: that run. target: of replicas so far."""
        running = list(replicas)
        load = DeploymentLoad(
            [reports.mean(replica, now_s) for replica in running], reports.mean(handles, now_s), mean_call_tokens
        )
        desired = desired_replicas(load, target_tokens=self._settings.target_tokens)
        if not running:  # those that are being started stay, as in `serving.app.autoscaling`
            desired = max(desired, target)
        if running or not desired:  # Serve's controller does not wait where there is no replica at all
            desired, self._state = _apply_delay_logic(desired, target, self._config, self._state, now_s)
        return max(self._settings.min_replicas, min(self._settings.max_replicas, desired))
