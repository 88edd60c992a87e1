"""How many replicas the load asks for. No clock, no Ray: delays and bounds are applied by whoever asks.

Called by `app.autoscaling`, in Serve's controller, and by the simulation that its defaults come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeploymentLoad:
    """What waits for one model. accepted_tokens: of each running replica, those accepted and not yet answered.
    waiting_calls: calls that no replica has accepted yet. mean_call_tokens: tokens of a call, on average of late; 0
    where none was seen."""

    accepted_tokens: Sequence[float]
    waiting_calls: float
    mean_call_tokens: float

    @property
    def num_tokens(self) -> float:
        """Tokens that are to be scored now; of the waiting calls, as many as calls have on average."""
        return sum(self.accepted_tokens) + self.waiting_calls * self.mean_call_tokens


def desired_replicas(load: DeploymentLoad, *, target_tokens: float) -> int:
    """The least number of replicas that leaves each at most `target_tokens`; 0 for no load, and 1 at least for any.

    The calls that wait in handles count too: where no replica runs, or all are full, they are the only ones that grow.
    """
    if load.num_tokens <= 0:
        return int(load.waiting_calls > 0)
    return max(1, math.ceil(load.num_tokens / target_tokens))
