"""The number of replicas that a load asks for: by hand, and never less than the load needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmray.serving.scaling import DeploymentLoad, desired_replicas

tokens = st.floats(0, 1e7)


@pytest.mark.parametrize(
    ("accepted", "waiting", "mean", "expected"),
    [
        ((), 0, 0, 0),
        ((0.0, 0.0), 0, 100.0, 0),
        ((1.0,), 0, 0, 1),
        ((1000.0,), 0, 500.0, 1),
        ((1001.0,), 0, 500.0, 2),
        ((600.0, 600.0), 0, 500.0, 2),
        ((600.0, 600.0), 4, 500.0, 4),  # 3,200 tokens
        ((), 1, 0, 1),  # scaled to zero, and nothing known of calls yet
        ((), 6, 500.0, 3),
    ],
)
def test_by_hand(accepted, waiting, mean, expected):
    assert desired_replicas(DeploymentLoad(accepted, waiting, mean), target_tokens=1000.0) == expected


@given(st.lists(tokens, max_size=8), st.integers(0, 1000), tokens, st.floats(1, 1e6))
def test_each_has_at_most_the_target_and_one_less_would_have_more(accepted, waiting, mean, target):
    load = DeploymentLoad(accepted, waiting, mean)
    replicas = desired_replicas(load, target_tokens=target)
    assert replicas * target >= load.num_tokens * (1 - 1e-9)
    if replicas > 1:
        assert (replicas - 1) * target < load.num_tokens
    assert (replicas == 0) == (load.num_tokens == 0 and waiting == 0)
