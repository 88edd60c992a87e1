"""Runs on clusters whose nodes come, are announced to go, and go; drivers told to stop; heads lost; checkpoints on S3.

Each cluster is started as people start one, asks for a token and is this test's own. Slow: `make chaos`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from rmray.config.train import TrainConfig
from rmray.models.bundle import load_bundle
from rmray.training.checkpoint import CheckpointStore
from rmray.training.events import read_events
from rmray.training.storage import checkpoint_place
from rmray.training.trainer import TrainOutcome
from tests.training.commands import TrainCommand, assert_same_but_for_rounding, assert_same_run, curve
from tests.training.nodes import RAY, Cluster, cluster

pytestmark = pytest.mark.chaos

PATIENCE_S = 400  # nodes, drivers and workers start slowly where many share a machine


def with_(config: TrainConfig, name: str, **sections: dict[str, Any]) -> TrainConfig:
    """The config under another name, and with other fields in sections."""
    changed = {section: getattr(config, section).model_copy(update=fields) for section, fields in sections.items()}
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name}), **changed})


def wait_for_starts(command: TrainCommand, number: int) -> dict[str, Any]:
    """The run's `number`-th start, over all of its commands."""
    command.wait_for(lambda: len(command.starts()) >= number, f"start {number}", PATIENCE_S)
    return command.starts()[number - 1]


def wait_for_step(command: TrainCommand, step: int) -> None:
    command.wait_for(lambda: command.newest_step() >= step, f"step {step}", PATIENCE_S)


def ended_well(command: TrainCommand) -> None:
    assert command.wait(PATIENCE_S) == 0, command.output()[-4000:]


def ended_as_told(command: TrainCommand, num_steps: int) -> None:
    """With SIGTERM, after so many steps."""
    wait_for_step(command, num_steps)
    command.send(command.process.pid, signal.SIGTERM)
    assert command.wait(PATIENCE_S) == 1, command.output()[-4000:]
    assert "was told to stop" in command.output()


def test_an_elastic_run_takes_the_workers_that_there_are(run_config: TrainConfig, outcome: TrainOutcome) -> None:
    """Two places, then one, as a node goes."""
    config = with_(run_config, "elastic", workers={"num": (1, 3)})
    with cluster(cpus=1) as nodes:
        goes = nodes.add_node(cpus=1)
        command = TrainCommand(config, nodes.environment)
        assert wait_for_starts(command, 1)["world_size"] == 2
        wait_for_step(command, 12)
        goes.kill()
        again = wait_for_starts(command, 2)
        assert again["world_size"] == 1
        assert again["lost_steps"] <= config.checkpoint.every_steps
        ended_well(command)
    assert_same_but_for_rounding(command.run_dir, outcome.run_dir)
    print(f"elastic: 2 -> 1 worker in {again['recovery_s']:.1f} s, {again['lost_steps']} step(s) lost")


def test_a_node_that_joins_is_used(run_config: TrainConfig) -> None:
    """Places are counted once a minute: the workers are started anew, from the newest checkpoint. How many steps that
    takes, the machine decides: the run, and the one it is compared with, would last for ever, and are told to stop."""
    every = 50
    endless = {"optim": {"epochs": 1000, "lr": 1e-5}, "checkpoint": {"every_steps": every}}
    with cluster(cpus=1) as nodes:
        command = TrainCommand(with_(run_config, "joined", workers={"num": (1, 2)}, **endless), nodes.environment)
        assert wait_for_starts(command, 1)["world_size"] == 1
        nodes.add_node(cpus=1)
        again = wait_for_starts(command, 2)
        assert again["world_size"] == 2
        assert again["step"] > 0
        assert 0 <= again["lost_steps"] <= every
        num_steps = again["step"] + every
        ended_as_told(command, num_steps)
        alone = TrainCommand(with_(run_config, "joined-alone", workers={"num": 1}, **endless), nodes.environment)
        ended_as_told(alone, num_steps)
    assert_same_but_for_rounding(command.run_dir, alone.run_dir, num_steps=num_steps)
    print(f"elastic: 1 -> 2 workers in {again['recovery_s']:.1f} s, {again['lost_steps']} step(s) lost")


def drain(nodes: Cluster, node_id: str, deadline_s: int) -> None:
    subprocess.run(
        [RAY, "drain-node", f"--address={nodes.address}", f"--node-id={node_id}", f"--deadline-remaining-seconds="
         f"{deadline_s}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"],
        env={**os.environ, **nodes.environment},
        check=True,
        timeout=PATIENCE_S,
    )  # fmt: skip


def test_a_node_that_is_to_be_taken_away_has_the_run_save_first(run_config: TrainConfig) -> None:
    """The checkpoint is due at no step but the last: what is saved before, the notice brought about."""
    longer = {"optim": {"epochs": 12}, "checkpoint": {"every_steps": 10_000}, "evaluate": {"every_steps": 10_000}}
    config = with_(run_config, "drained", **longer)
    with cluster(cpus=1) as nodes:
        goes = nodes.add_node(cpus=1)
        command = TrainCommand(config, {**nodes.environment, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"})
        wait_for_starts(command, 1)
        nodes.add_node(cpus=1)
        wait_for_step(command, 5)
        drain(nodes, goes.node_id, 8)
        store = CheckpointStore(checkpoint_place(config))
        command.wait_for(store.list, "the checkpoint that the notice asks for", PATIENCE_S)
        saved = store.list()
        again = wait_for_starts(command, 2)
        goes.kill()
        assert again["step"] == saved[0]
        ended_well(command)
        alone = TrainCommand(with_(run_config, "drained-alone", **longer), nodes.environment)
        ended_well(alone)
    assert_same_run(command.run_dir, alone.run_dir)
    saves = [event["step"] for event in read_events(command.run_dir) if event["event"] == "checkpoint"]
    assert len(saves) == 2
    print(f"drained: {again['recovery_s']:.1f} s, {again['lost_steps']} step(s) run again")


def test_a_driver_told_to_stop_saves_and_says_so(run_config: TrainConfig, outcome: TrainOutcome) -> None:
    config = with_(run_config, "stopped", checkpoint={"every_steps": 10_000}, evaluate={"every_steps": 10})
    with cluster(cpus=2) as nodes:
        command = TrainCommand(config, nodes.environment)
        wait_for_starts(command, 1)
        wait_for_step(command, 7)
        command.send(command.process.pid, signal.SIGTERM)
        assert command.wait(PATIENCE_S) == 1
        assert "Traceback" not in command.output()
        assert command.output().count("was told to stop") == 1
        assert "--resume" in command.output()
        newest = CheckpointStore(checkpoint_place(config)).list()[0]
        again = TrainCommand(config, nodes.environment)
        start = wait_for_starts(again, 2)
        assert (start["step"], start["lost_steps"]) == (newest, 0)
        ended_well(again)
    assert_same_run(command.run_dir, outcome.run_dir)


def test_a_lost_head_is_told_of_and_the_run_goes_on_with_another(
    run_config: TrainConfig, outcome: TrainOutcome
) -> None:
    config = with_(run_config, "beheaded")
    with cluster(cpus=2) as nodes:
        command = TrainCommand(config, nodes.environment)
        wait_for_starts(command, 1)
        wait_for_step(command, 17)
        nodes.head.kill()
        assert command.wait(PATIENCE_S) == 2
        assert "the Ray cluster that trained this run is gone" in command.output()
        assert "Traceback" not in command.output()
        nodes.start_head(cpus=2)
        again = TrainCommand(config, nodes.environment)
        start = wait_for_starts(again, 2)
        assert 0 <= start["lost_steps"] <= config.checkpoint.every_steps
        ended_well(again)
    assert_same_run(command.run_dir, outcome.run_dir)


@pytest.fixture
def bucket() -> Iterator[tuple[str, dict[str, str]]]:
    """A URL on an S3 server in this process, and the environment that has its credentials."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    S3FileSystem(
        access_key="test", secret_key="test", endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1",
        allow_bucket_creation=True,
    ).create_dir("models")  # fmt: skip
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    yield f"s3://models/runs?endpoint_override={host}:{port}&scheme=http&region=us-east-1", credentials
    server.stop()


def test_a_run_whose_checkpoints_are_in_an_object_store(
    bucket: tuple[str, dict[str, str]], run_config: TrainConfig, outcome: TrainOutcome
) -> None:
    """A worker is killed, the run recovers and is exported; then it is resumed, and overwritten."""
    url, credentials = bucket
    config = with_(run_config, "stored", checkpoint={"storage": url})
    with cluster(cpus=2, environment=credentials) as nodes, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials.items():
            patch.setenv(name, value)
        store = CheckpointStore(checkpoint_place(config))
        command = TrainCommand(config, nodes.environment)
        wait_for_starts(command, 1)
        command.wait_for(lambda: max(store.list(), default=0) >= 10, "a checkpoint", PATIENCE_S)
        command.signal_worker(1)
        again = wait_for_starts(command, 2)
        assert again["step"] >= 10
        ended_well(command)
        assert curve(command.run_dir) == curve(outcome.run_dir)
        assert {40, 35} <= set(store.list())
        assert not (command.run_dir / "checkpoints").exists()
        assert load_bundle(command.run_dir / "bundle").info.max_length == 64
        print(f"on S3: {again['recovery_s']:.1f} s, {again['lost_steps']} step(s) lost")
        resumed = TrainCommand(config, nodes.environment)
        ended_well(resumed)
        assert len(resumed.starts()) == 2
        anew = TrainCommand(config, nodes.environment, "--overwrite", resume=False)
        ended_well(anew)
        assert [start["step"] for start in anew.starts()] == [0]
        assert curve(anew.run_dir) == curve(outcome.run_dir)
