"""Serve's autoscaling policy for a model: tokens accepted and waiting decide how many replicas there are.

Runs in Serve's controller at every tick, over what `replica.record_autoscaling_stats` reports and the handles queue.
Serve itself applies the bounds, the delays and, from zero, the first replica for the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import cloudpickle
from ray.serve.config import AutoscalingPolicy

from rmray.serving import scaling

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

    from rmray.config.serve import ServeOptions

ACCEPTED_TOKENS = "accepted_tokens"
"""What a replica has accepted and not yet answered, in tokens."""
MEAN_CALL_TOKENS = "mean_call_tokens"
"""Tokens of a call, on average of late: by replica, and in the policy's own state for when none runs."""


class TokenPolicy:
    """Serve makes one of each app. Calls that wait in handles count as many tokens as calls had on average of late."""

    def __init__(self, target_tokens: float) -> None:
        self._target_tokens = target_tokens

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        reported = context.aggregated_metrics or {}
        means = [mean for mean in reported.get(MEAN_CALL_TOKENS, {}).values() if mean > 0]
        mean = sum(means) / len(means) if means else float(context.policy_state.get(MEAN_CALL_TOKENS, 0.0))
        load = scaling.DeploymentLoad(
            tuple(reported.get(ACCEPTED_TOKENS, {}).values()), context.total_queued_requests or 0.0, mean
        )
        wanted = scaling.desired_replicas(load, target_tokens=self._target_tokens)
        if context.current_num_replicas == 0:
            # Those that are being started have nothing to report: to go down now would stop them half loaded.
            wanted = max(wanted, context.target_num_replicas)
        return wanted, {MEAN_CALL_TOKENS: mean}


def autoscaling_config(options: ServeOptions) -> dict[str, Any]:
    """What Serve is told. An app starts with a replica, even where it may go to none later: it has to prove itself."""
    return {
        "min_replicas": options.min_replicas,
        "initial_replicas": max(1, options.min_replicas),
        "max_replicas": options.max_replicas,
        "metrics_interval_s": options.metrics_interval_s,
        "look_back_period_s": 2 * options.metrics_interval_s,
        "upscale_delay_s": options.upscale_delay_s,
        "downscale_delay_s": options.downscale_delay_s,
        "downscale_to_zero_delay_s": options.downscale_to_zero_delay_s,
        "policy": _policy(options.target_tokens),
    }


def _policy(target_tokens: float) -> AutoscalingPolicy:
    # The controller may be another job's, without this package or with another version of it: Serve ships the policy's
    # own module by value, and what it calls has to travel too.
    cloudpickle.register_pickle_by_value(scaling)  # type: ignore[no-untyped-call]
    try:
        return AutoscalingPolicy(  # type: ignore[no-untyped-call]
            policy_function=TokenPolicy, policy_kwargs={"target_tokens": target_tokens}
        )
    finally:
        cloudpickle.unregister_pickle_by_value(scaling)  # type: ignore[no-untyped-call]
