"""A replica whose golden no longer comes out goes, and another one takes its place, on a real Serve."""

from functools import partial

import pytest

from rmray.client import RewardClient
from tests.serving.app.versions import deploy, drifting, golden_of_length, raws, running_replicas
from tests.waiting import wait_for


@pytest.mark.usefixtures("url")
def test_a_scorer_that_drifts_is_replaced(tmp_path):
    from rmray.serving.app import undeploy

    factory = partial(drifting, str(tmp_path))
    deploy("drifting", "v1", factory, check_maker=golden_of_length, check_every_s=0.2, drain_s=0.0)
    with RewardClient.connect("drifting", timeout_s=60) as client:
        assert raws(client.score_group("p", ["ab"])) == [2.0]
        (first,) = running_replicas("drifting")
        (tmp_path / (tmp_path / "pid").read_text()).touch()
        wait_for(lambda: (now := running_replicas("drifting")) and now != [first], timeout_s=40, what="another replica")
        assert raws(client.score_group("p", ["ab"])) == [2.0]
    undeploy("drifting")
