"""Twenty ways to break a run, each of which must leave no trace; and what they cost. Slow: `make chaos`."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from rmray.config.train import TrainConfig
from rmray.training.accounting import Account, account
from rmray.training.events import read_events
from rmray.training.trainer import TrainOutcome
from tests.training.commands import (
    TrainCommand,
    assert_same_but_for_rounding,
    assert_same_run,
    final_weights,
    leftovers,
)
from tests.training.test_recovery import environment, named

__all__ = ["environment"]

pytestmark = pytest.mark.chaos


@dataclass(frozen=True)
class Point:
    """Who is killed, and when: once `step` is done, in the first save after it, or while the workers still load."""

    who: Literal["worker 0", "worker 1", "driver", "all workers"]
    when: Literal["step", "save", "load"]
    step: int = 0

    def __str__(self) -> str:
        return f"{self.who}, {self.when} {self.step}".replace(" ", "-")


POINTS = [
    *(Point("worker 0", "step", step) for step in (0, 7, 19, 33)),
    *(Point("worker 1", "step", step) for step in (3, 14, 38)),
    *(Point("worker 0", "save", step) for step in (0, 16, 34)),
    *(Point("worker 1", "save", step) for step in (5, 24)),
    *(Point("driver", "step", step) for step in (2, 11, 27)),
    *(Point("driver", "save", step) for step in (1, 20)),
    Point("worker 0", "load"),
    Point("driver", "load"),
    Point("all workers", "step", 22),
]


@pytest.fixture(scope="module")
def accounts(request: pytest.FixtureRequest) -> Iterator[dict[str, Account]]:
    """What each run cost; the sum of it is told at the end."""
    found: dict[str, Account] = {}
    yield found
    recoveries = [seconds for figures in found.values() for seconds in figures.recoveries_s]
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and recoveries and "clean" in found:
        useful = statistics.median(f.useful_share for name, f in found.items() if name != "clean")
        terminal.write_line(
            f"\n{len(recoveries)} recoveries: median {statistics.median(recoveries):.1f} s, p95 "
            f"{np.quantile(recoveries, 0.95):.1f} s; steps run again: "
            f"{statistics.median(f.lost_steps for f in found.values()):.0f} (median), "
            f"{max(f.lost_steps for f in found.values())} (most); useful share {found['clean'].useful_share:.3f} "
            f"left alone, {useful:.3f} with one break (median)"
        )


def test_there_are_twenty_points() -> None:
    assert len(set(POINTS)) == 20


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_kill_leaves_no_trace(
    point: Point,
    run_config: TrainConfig,
    outcome: TrainOutcome,
    environment: Mapping[str, str],
    accounts: dict[str, Account],
) -> None:
    accounts["clean"] = account(outcome.run_dir)
    config = named(run_config, f"killed-{point}".replace(",", "").replace(" ", "-"))
    command = TrainCommand(config, environment)
    if point.when == "load":
        workers = command.wait_for(command.loading_workers, "workers")
    else:
        command.wait_for_start()
        command.wait_for_step(point.step)
    if point.when == "save":
        command.wait_for(lambda: leftovers(command.run_dir, after_step=point.step), "a save under way")
    if point.who == "driver":
        command.kill()
        command = TrainCommand(config, environment)
    elif point.when == "load":
        command.send(workers[0])
    else:
        for rank in (0, 1) if point.who == "all workers" else (int(point.who[-1]),):
            command.signal_worker(rank)
    assert command.wait() == 0, command.output()[-4000:]
    assert_same_run(command.run_dir, outcome.run_dir)
    accounts[str(point)] = figures = account(command.run_dir)
    assert figures.lost_steps <= config.checkpoint.every_steps
    assert len(figures.recoveries_s) == (point.when != "load")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_hangs_is_found_within_the_timeout(
    rank: int, run_config: TrainConfig, outcome: TrainOutcome, environment: Mapping[str, str]
) -> None:
    workers = run_config.workers.model_copy(update={"timeout_s": 20.0})
    config = named(run_config, f"hung-{rank}").model_copy(update={"workers": workers})
    command = TrainCommand(config, environment)
    command.wait_for_start()
    command.wait_for_step(7)
    command.signal_worker(rank, signal.SIGSTOP)
    assert command.wait() == 0, command.output()[-4000:]
    assert_same_run(command.run_dir, outcome.run_dir)
    hangs = [event for event in read_events(command.run_dir) if event["event"] == "hang"]
    assert {event["rank"] for event in hangs} == {1 - rank}
    assert all(20 < event["waited_s"] < 25 for event in hangs)
    (recovery_s,) = account(command.run_dir).recoveries_s
    print(f"hung rank {rank}: {recovery_s:.1f} s from the last step to the next, 20 of them the timeout")


def test_two_one_three_workers_over_one_run(
    run_config: TrainConfig, outcome: TrainOutcome, environment: Mapping[str, str]
) -> None:
    config = named(run_config, "two-one-three")
    for num, stop_at in ((2, 12), (1, 24), (3, None)):
        now = config.model_copy(update={"workers": config.workers.model_copy(update={"num": num})})
        command = TrainCommand(now, environment)
        if stop_at is not None:
            assert command.wait_for_start()["world_size"] == num
            command.wait_for_step(stop_at)
            command.kill()
    assert command.wait() == 0, command.output()[-4000:]
    assert_same_but_for_rounding(command.run_dir, outcome.run_dir)
    weights, wanted = final_weights(command.run_dir), final_weights(outcome.run_dir)
    furthest = max(float((weights[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)
    assert furthest < 1e-6
    costs = account(command.run_dir)
    print(f"2 -> 1 -> 3 workers: {[round(s, 1) for s in costs.recoveries_s]} s to the next step, {costs.lost_steps} "
          f"step(s) run again, weights {furthest:.1e} apart")  # fmt: skip


def flip_a_byte(checkpoint: Path) -> None:
    file = checkpoint / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def cut_a_shard(checkpoint: Path) -> None:
    file = next(checkpoint.glob("optimizer-*"))
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES = {
    "a flipped byte": flip_a_byte,
    "a shard cut short": cut_a_shard,
    "a missing shard": lambda checkpoint: next(checkpoint.glob("optimizer-*")).unlink(),
    "a missing marker": lambda checkpoint: (checkpoint / "COMPLETE").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_costs_an_interval_and_no_more(
    damage: str, run_config: TrainConfig, outcome: TrainOutcome, environment: Mapping[str, str]
) -> None:
    config = named(run_config, damage.replace(" ", "-"))
    command = TrainCommand(config, environment)
    command.wait_for_start()
    command.wait_for_step(17)
    command.kill()
    newest = max((command.run_dir / "checkpoints").glob("step-*"))
    DAMAGES[damage](newest)
    again = TrainCommand(config, environment)
    start: dict[str, Any] = again.wait_for_start()
    assert start["step"] == int(newest.name.removeprefix("step-")) - config.checkpoint.every_steps
    assert again.wait() == 0, again.output()[-4000:]
    assert_same_run(command.run_dir, outcome.run_dir)
    if damage != "a missing marker":  # without it there never was a checkpoint
        assert newest.name in again.output()
