"""Decide whether a failed scoring call is tried again, and when. Pure: clock and randomness come from the caller.

Scoring has no side effect, so a call may be repeated as often as its one deadline allows. Used by the HTTP gateway
(`serving`) and by `RewardClient` (`client`), which may not import each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rmray.errors import RequestError

RETRY_CODES = frozenset({"overloaded", "replica_lost", "stale", "shutting_down"})
"""Failures that another attempt may mend; every other code is final."""

# By name, so that those who have no Ray can decide too.
_LOST = frozenset(
    {
        "ActorDiedError",
        "ActorUnavailableError",
        "NodeDiedError",
        "ObjectLostError",
        "OwnerDiedError",
        "ReplicaUnavailableError",
        "RpcError",
        "TaskCancelledError",
        "WorkerCrashedError",
    }
)


class TryAgainError(RequestError):
    """A call that another attempt may mend. code: one of RETRY_CODES. retry_after_s: what the server asked for."""

    def __init__(self, code: str, what: str, *, retry_after_s: float | None = None, **details: str) -> None:
        super().__init__(code, what, **details)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays grow from first_s by `growth` to most_s; each is drawn between half and the whole of it."""

    first_s: float = 0.05
    growth: float = 2.0
    most_s: float = 2.0

    def delay_s(self, attempt: int, *, left_s: float, jitter: float, hint_s: float | None = None) -> float | None:
        """Seconds to wait after the attempt-th failure (from 0), or None when the deadline leaves no room for another.

        left_s: seconds to the deadline. jitter: uniform in [0, 1). hint_s: what the server said, a lower bound.
        """
        # The exponent is capped: 2.0**2000 overflows on a deadline of hours.
        delay = min(self.most_s, self.first_s * self.growth ** min(attempt, 30)) * (0.5 + 0.5 * jitter)
        if hint_s is not None:
            delay = max(delay, min(hint_s, self.most_s) * (1.0 + 0.5 * jitter))
        return delay if delay < left_s else None


def code_of_ray_error(error: BaseException) -> str | None:
    """The failure code of an exception out of a Ray or Serve call; None where it is no fault of the platform.

    `stale`: the app behind the handle is gone, resolve the name again. `replica_lost`: the replica died under the call.
    `overloaded`: too many calls wait.
    """
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("ray.")}
    if "DeploymentUnavailableError" in names:
        return "stale"
    if "BackPressureError" in names:
        return "overloaded"
    # A task error carries what the replica's own code raised: that is final, whatever it derives from.
    if "RayTaskError" in names:
        return None
    if names & _LOST:
        return "replica_lost"
    return None


def retry_after_seconds(value: str | None) -> float | None:
    """Of a Retry-After header; a date in it is passed over."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
