"""A load step takes the replicas from the fewest to the most, and its end takes them back: no call fails on the way."""

import time

import pytest

from rmray.client import RewardClient
from tests.serving.survival.load import CountedLoad, fake_requests, fake_scores
from tests.serving.survival.replicas import replicas
from tests.waiting import wait_for

FEWEST, MOST = 1, 4


@pytest.mark.chaos
def test_from_the_fewest_to_the_most_and_back(deploy_paced, capsys):
    """The short form is `serving/app/test_scaling.py`."""
    deployed = deploy_paced(
        "elastic",
        "v1",
        tokens_per_s=2_000,
        min_replicas=FEWEST,
        max_replicas=MOST,
        target_tokens=1_000,
        max_batch_tokens=500,
        max_ongoing_requests=8,
        metrics_interval_s=1.0,
        upscale_delay_s=2.0,
        downscale_delay_s=5.0,
    )
    requests = fake_requests()
    expected = {"v1": fake_scores("v1", requests)}
    with (
        RewardClient.connect("elastic", timeout_s=120) as by_handle,
        RewardClient.connect_http(deployed.url, "elastic", timeout_s=120) as by_http,
        CountedLoad([by_handle], requests, expected, callers=1, pause_s=0.5) as little,
    ):
        little.wait_for_answers(10)
        assert len(replicas("elastic")) == FEWEST
        start_s = time.monotonic()
        with CountedLoad([by_handle, by_http], requests, expected, callers=16) as much:
            wait_for(lambda: len(replicas("elastic")) == MOST, timeout_s=120, what=f"{MOST} replicas")
            up_s = time.monotonic() - start_s
            much.wait_for_answers(200)
        start_s = time.monotonic()
        wait_for(lambda: len(replicas("elastic")) == FEWEST, timeout_s=120, what=f"{FEWEST} replica")
        down_s = time.monotonic() - start_s
        little.wait_for_answers(10)
    little.check()
    much.check()
    with capsys.disabled():
        print(f"\n{FEWEST} to {MOST} in {up_s:.0f} s, back in {down_s:.0f} s; {much.answered} calls, 0 failed")
