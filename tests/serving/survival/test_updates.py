"""Versions change under load, broken ones among them: no call fails, every score is that of the version it names."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rmray.client import RewardClient
from rmray.errors import BundleError
from rmray.models.bundle import load_bundle
from rmray.models.scorer import score_requests
from tests.models.bundle.conftest import GOLDENS, REFERENCE
from tests.serving.survival.load import CountedLoad, fake_requests, fake_scores


def test_a_broken_version_between_two_sound_ones_is_no_gap(deploy_paced, deploy_broken):
    deployed = deploy_paced("changing", "v1")
    requests = fake_requests()
    expected = {version: fake_scores(version, requests) for version in ("v1", "v2")}
    with (
        RewardClient.connect("changing") as by_handle,
        RewardClient.connect_http(deployed.url, "changing") as by_http,
        CountedLoad([by_handle, by_http], requests, expected) as load,
    ):
        load.wait_for_answers(50)
        deploy_paced("changing", "v2")
        load.wait_for_answers(50)
        with pytest.raises(BundleError, match="a golden differs"):
            deploy_broken("changing", "v3")
        assert deploy_paced("changing", "v2").replaced == "v2"
        load.wait_for_answers(50)
    load.check()
    assert set(load.by_version) == {"v1", "v2"}


@pytest.mark.chaos
def test_bundles_change_under_load_for_two_minutes(serving, member_dirs, tmp_path, capsys):
    from rmray.serving.app import deploy, undeploy

    options = {"name": "bundled", "cpus": 1, "drain_s": 1.5, "start_timeout_s": 120}
    a, b, broken = *member_dirs[:2], damage(shutil.copytree(member_dirs[2], tmp_path / "broken"))
    requests = [replace(r, id=str(i)) for i, r in enumerate([*GOLDENS, *REFERENCE])]
    expected = {}
    for directory in (a, b):
        scorer = load_bundle(directory)
        scores = score_requests(scorer, requests, max_batch_tokens=4096)
        expected[scorer.info.model_version] = [[x.raw for x in r.results] for r in scores]
    deployed = deploy(a, **options)
    rounds = 0
    with (
        RewardClient.connect("bundled") as by_handle,
        RewardClient.connect_http(deployed.url, "bundled") as by_http,
        CountedLoad([by_handle, by_http], requests, expected) as load,
    ):
        end_s = time.monotonic() + 120.0
        while time.monotonic() < end_s and load.healthy:
            deploy(b, **options)
            load.wait_for_answers(50)
            with pytest.raises(BundleError):
                deploy(broken, **options)
            load.wait_for_answers(50)
            deploy(b, **options)
            deploy(a, **options)
            load.wait_for_answers(50)
            rounds += 1
    undeploy("bundled")
    load.check()
    assert len(load.by_version) == 2
    with capsys.disabled():
        print(
            f"\n{rounds} rounds, {load.answered} calls, 0 failed, slowest {load.slowest_s():.1f} s, {load.by_version}"
        )


def damage(directory: Path) -> Path:
    """One bit of the weights turned over: its hash is another, so that it must not load."""
    weights = next(directory.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return directory
