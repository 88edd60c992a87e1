"""The policy in Serve's own terms: what it asks for, what it keeps, and that it runs without the package."""

import subprocess
import sys

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from rmray.config.serve import serve_options
from rmray.serving.app.autoscaling import TokenPolicy, autoscaling_config

DEPLOYMENT = DeploymentID(name="scorer", app_name="app")


def context(accepted, means=(), *, queued=0.0, running=None, target=None, state=None):
    replicas = [ReplicaID(unique_id=str(i), deployment_id=DEPLOYMENT) for i in range(len(accepted))]
    running = len(accepted) if running is None else running
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="scorer",
        app_name="app",
        current_num_replicas=running,
        target_num_replicas=running if target is None else target,
        running_replicas=replicas,
        total_num_requests=queued,
        total_queued_requests=queued,
        aggregated_metrics={
            "accepted_tokens": dict(zip(replicas, accepted, strict=True)),
            "mean_call_tokens": dict(zip(replicas, means, strict=False)),
        },
        raw_metrics=None,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=8,
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )


@pytest.mark.parametrize(
    ("seen", "replicas"),
    [
        (context([0.0, 0.0], [500.0, 500.0]), 0),
        (context([900.0, 600.0], [500.0, 500.0]), 2),
        (context([900.0, 600.0], [400.0, 600.0], queued=4.0), 4),  # 1,500 accepted and 4 x 500 that wait
        (context([900.0], [0.0], queued=4.0, state={"mean_call_tokens": 500.0}), 3),  # a replica that is new
        (context([], queued=0.0, state={"mean_call_tokens": 500.0}), 0),
        (context([], running=0, target=2, queued=0.0), 2),  # those that start are not stopped
    ],
)
def test_tokens_accepted_and_waiting_are_counted(seen, replicas):
    assert TokenPolicy(target_tokens=1000)(seen)[0] == replicas


def test_the_last_known_mean_outlives_the_replicas():
    policy = TokenPolicy(target_tokens=1000)
    _, state = policy(context([0.0], [700.0]))
    assert policy(context([], running=0, state=state))[1] == {"mean_call_tokens": 700.0}


def test_serve_is_told_bounds_delays_and_to_start_with_a_replica():
    told = AutoscalingConfig(**autoscaling_config(serve_options(min_replicas=0, max_replicas=3, target_tokens=7)))
    assert (told.min_replicas, told.initial_replicas, told.max_replicas) == (0, 1, 3)
    assert (told.metrics_interval_s, told.look_back_period_s) == (2.0, 4.0)
    assert told.policy.policy_kwargs == {"target_tokens": 7}


def test_the_policy_runs_where_the_package_is_not(tmp_path):
    """Serve's controller may be another job's: what travels there must not ask for rmray."""
    told = AutoscalingConfig(**autoscaling_config(serve_options(target_tokens=1000)))
    (tmp_path / "policy").write_bytes(told.policy.get_serialized_policy_def())
    script = """
import sys
sys.modules["rmray"] = None  # every import of it fails
from types import SimpleNamespace
from ray import cloudpickle
policy = cloudpickle.loads(open("policy", "rb").read())(target_tokens=1000)
seen = SimpleNamespace(aggregated_metrics={"accepted_tokens": {"a": 1500.0}}, total_queued_requests=0.0,
                       policy_state={}, current_num_replicas=1, target_num_replicas=1)
print(policy(seen)[0])
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout == "2\n", ran.stderr
