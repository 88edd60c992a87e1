"""Replicas are killed under load: no call fails, none is lost, every score is right."""

import threading
import time

import pytest

from rmray.client import RewardClient
from tests.serving.survival.load import CountedLoad, fake_requests, fake_scores
from tests.serving.survival.replicas import kill, replicas
from tests.waiting import wait_for


def test_a_killed_replica_loses_no_call(deploy_paced):
    deployed = deploy_paced("mortal", "v1", min_replicas=2, max_replicas=2)
    requests = fake_requests()
    with (
        RewardClient.connect("mortal") as by_handle,
        RewardClient.connect_http(deployed.url, "mortal") as by_http,
        CountedLoad([by_handle, by_http], requests, {"v1": fake_scores("v1", requests)}) as load,
    ):
        load.wait_for_answers(50)
        victim, survivor = replicas("mortal")
        kill(victim)
        wait_for(lambda: len({*replicas("mortal")} - {victim}) == 2, timeout_s=60, what="another in its place")
        load.wait_for_answers(50)
        assert survivor in replicas("mortal")
    load.check()


@pytest.mark.chaos
def test_kills_every_fifteen_seconds_for_five_minutes(deploy_paced, capsys):
    deployed = deploy_paced("mortal", "v1", min_replicas=2, max_replicas=2)
    requests = fake_requests()
    kills = 0
    with (
        RewardClient.connect("mortal") as by_handle,
        RewardClient.connect_http(deployed.url, "mortal") as by_http,
        CountedLoad([by_handle, by_http], requests, {"v1": fake_scores("v1", requests)}) as load,
    ):
        end_s = time.monotonic() + 300.0
        while time.monotonic() < end_s and load.healthy:
            threading.Event().wait(15.0)
            victims = replicas("mortal")
            kill(victims[kills % len(victims)])
            kills += 1
    load.check()
    with capsys.disabled():
        print(f"\n{kills} kills, {load.answered} calls, 0 failed, slowest {load.slowest_s():.1f} s")
