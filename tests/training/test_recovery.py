"""A run that is killed goes on as if it had not been: bit for bit, with one checkpoint interval lost at most.

The run left alone is the session's `outcome`; the one that is killed trains the same config under another name. Many
more points are tried in `test_chaos`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import ray

from rmray.config.train import TrainConfig
from rmray.connect import probe
from rmray.training.accounting import account
from rmray.training.trainer import TrainOutcome
from tests.training.commands import TrainCommand, assert_same_run, leftovers


@pytest.fixture
def environment(ray_cluster: None) -> Mapping[str, str]:
    """How a command joins the session's Ray."""
    address = ray.get_runtime_context().gcs_address
    return {"RAY_ADDRESS": address, **({"RAY_AUTH_MODE": "token"} if probe(address) == "token" else {})}


def named(config: TrainConfig, name: str) -> TrainConfig:
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def test_a_worker_killed_in_mid_save_and_a_driver_killed_later_leave_no_trace(
    run_config: TrainConfig, outcome: TrainOutcome, environment: Mapping[str, str]
) -> None:
    config = named(run_config, "killed")
    every = config.checkpoint.every_steps
    command = TrainCommand(config, environment)
    command.wait_for_start()
    command.wait_for(lambda: leftovers(command.run_dir, after_step=every), "a save under way")
    command.signal_worker(0)
    second = command.wait_for_start(2)
    assert second["lost_steps"] <= every
    command.wait_for_step(second["step"] + every + 2)
    command.kill()
    again = TrainCommand(config, environment)
    third = again.wait_for_start()
    assert third["step"] >= second["step"]
    assert third["lost_steps"] <= every
    assert again.wait() == 0, again.output()[-4000:]
    assert_same_run(command.run_dir, outcome.run_dir)
    figures = account(command.run_dir)
    assert len(figures.recoveries_s) == 2
    assert 0 < figures.useful_share < 1
