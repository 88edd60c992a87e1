"""What is simulated, and what comes of a run, as records. Made by `simulation`, filled by `app`, read by `figures`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rmray.benchmark.scaling.autoscaler import ScalingSettings
from rmray.benchmark.scaling.cost import ForwardCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is served and how. start_s: from the decision to a replica that answers. starts_s: of the first replicas
    that are started, one each, in place of that. call_s: of a call on its way there and back. replicas: at the start.
    scaling: None for a number that stays."""

    cost: ForwardCost
    scaling: ScalingSettings | None = None
    replicas: int = 1
    max_batch_tokens: int = 16384
    max_queued_tokens: int = 262144
    patience_s: float = 1.0
    max_ongoing_requests: int = 4096
    start_s: float = 8.0
    starts_s: tuple[float, ...] = ()
    call_s: float = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """What rollout actors do. generate_s: between two steps, on average. timeout_s: of a call, retries and all."""

    num_actors: int = 1000
    groups_per_step: int = 8
    generate_s: float = 30.0
    sigma: float = 0.3
    timeout_s: float = 300.0


@dataclass(slots=True)
class Look:
    """The state at one time. tokens: of all calls under way. starting: replicas; running ones may be draining."""

    now_s: float
    level: float
    tokens: int
    target: int
    running: int
    starting: int
    draining: int


@dataclass(slots=True)
class Outcome:
    """What happened. latencies_s: of each answered call, from the client's first attempt, with when it was sent.
    failures: calls without a score, by code. replica_s: from the decision to start a replica to its end, all together;
    busy_s: of those, in a forward."""

    sent_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    completions: int = 0
    tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    rejections: int = 0
    replica_s: float = 0.0
    running_s: float = 0.0
    busy_s: float = 0.0
    num_batches: int = 0
    waited_s: float = 0.0
    generated_s: float = 0.0
    looks: list[Look] = field(default_factory=list)
    end_s: float = 0.0

    @property
    def num_calls(self) -> int:
        return len(self.latencies_s)
