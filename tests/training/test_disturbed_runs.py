"""Whole runs that are disturbed, or set up oddly: stops, kills, full disks, foreign checkpoints, one step alone."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmray.data.chunks import local_steps
from rmray.errors import RunError, TrainingError
from rmray.training.checkpoint import CheckpointStore
from rmray.training.events import EventLog
from rmray.training.notices import forget_stop, request_stop
from rmray.training.trainer import _check_checkpoints
from rmray.training.worker import run_worker
from tests.training.checkpoint.helpers import make_writer, state_at, trained
from tests.training.commands import assert_same_run, curve
from tests.training.learnable import STEPS, accuracies, events_of, job_of, run, saved_steps, store_of
from tests.training.runs import run_job

DISK_BYTES = 2 * 2**20


class TestStops:
    def test_a_run_told_to_stop_saves_and_ends_and_goes_on_as_if_nothing_was(self, sets: Path, tmp_path: Path) -> None:
        whole, stopped = (job_of(tmp_path / name, sets, evaluate={"every_steps": 6}) for name in ("whole", "stopped"))
        run(whole)
        run(stopped, {13: lambda: request_stop(tmp_path / "stopped")})
        newest = store_of(stopped).newest()
        assert newest is not None
        assert (newest.step, newest.state.finished, newest.state.evaluation) == (14, False, None)
        assert curve(tmp_path / "stopped") == [line for line in curve(tmp_path / "whole") if line["step"] < 14]
        forget_stop(tmp_path / "stopped")
        run(stopped)
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")

    def test_a_stop_at_the_last_step_changes_nothing(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, optim={"max_steps": 3})
        run(job, {2: lambda: request_stop(tmp_path / "run")})
        newest = store_of(job).newest()
        assert newest is not None
        assert newest.state.finished

    def test_a_machine_that_will_go_has_a_checkpoint_saved_at_once_and_once(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, "nothing-held-out")
        shares = local_steps(job.source, rank=0, world_size=1)
        run_worker(job, None, shares, deepspeed=False, preempted=lambda: True)
        assert saved_steps(tmp_path / "run") == [1, job.num_steps]

    def test_lines_that_a_kill_cut_off_are_no_hindrance(self, sets: Path, tmp_path: Path) -> None:
        whole, killed = (job_of(tmp_path / name, sets, checkpoint={"keep_best": False}) for name in ("whole", "killed"))
        run(whole)
        run_job(killed, deepspeed=False, killed_at=17)
        for name in ("metrics.jsonl", "events.jsonl"):
            with (tmp_path / "killed" / name).open("a") as file:
                file.write('{"step": 17, "time": 17')
        EventLog(tmp_path / "killed").write("run_started", resume=True)
        run(killed)
        assert_same_run(tmp_path / "killed", tmp_path / "whole")
        assert len(events_of(tmp_path / "killed", "run_started")) == 1
        (_, again) = events_of(tmp_path / "killed", "started")
        assert (again["step"], again["lost_steps"]) == (10, 7)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for some checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # a failed test may hold a file open


def fill(disk: Path) -> None:
    with (disk / "other").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def make_room(disk: Path) -> None:
    (disk / "other").unlink()


class TestFullDisks:
    @pytest.fixture(scope="class")
    def whole(self, sets: Path) -> Path:
        run(job_of(sets / "whole", sets))
        return sets / "whole"

    def test_the_run_goes_on_and_saves_again_when_there_is_room(
        self, sets: Path, whole: Path, tmp_path: Path, small_disk: Path
    ) -> None:
        job = job_of(tmp_path / "run", sets, checkpoint={"storage": str(small_disk), "keep": 2, "keep_best": False})
        run(job, {15: lambda: fill(small_disk), 25: lambda: make_room(small_disk)})
        (failed,) = events_of(tmp_path / "run", "checkpoint_failed")
        assert failed["step"] == 20
        assert "No space left" in failed["message"]
        assert saved_steps(tmp_path / "run")[-2:] == [30, STEPS]
        assert curve(tmp_path / "run") == curve(whole)

    def test_a_run_whose_last_save_fails_says_so_and_is_completed_later(
        self, sets: Path, whole: Path, tmp_path: Path, small_disk: Path
    ) -> None:
        job = job_of(tmp_path / "run", sets, checkpoint={"storage": str(small_disk), "keep": 2})
        with pytest.raises(TrainingError, match=r"could not be written(.|\n)*free space(.|\n)*--resume"):
            run(job, {35: lambda: fill(small_disk)})
        assert store_of(job).list()[0] == 30
        make_room(small_disk)
        run(job)
        newest = store_of(job).newest()
        assert newest is not None
        assert newest.state.finished
        assert curve(tmp_path / "run") == curve(whole)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread
    def test_the_whole_run_directory_may_be_on_the_full_disk(
        self, sets: Path, whole: Path, tmp_path: Path, small_disk: Path
    ) -> None:
        job = job_of(small_disk / "run", sets, checkpoint={"keep": 2, "keep_best": False})
        run(job, {15: lambda: fill(small_disk), 25: lambda: make_room(small_disk)})
        assert_same_run(small_disk / "run", whole)


class TestOddSettings:
    def test_evaluations_rarer_than_the_run_is_long(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, evaluate={"every_steps": 1000, "patience": 1})
        run(job)
        assert list(accuracies(tmp_path / "run")) == [STEPS - 1]
        assert store_of(job).list() == [40, 30, 20]

    def test_an_evaluation_and_a_checkpoint_at_every_step(self, sets: Path, tmp_path: Path) -> None:
        every = {"evaluate": {"every_steps": 1}, "checkpoint": {"every_steps": 1, "keep": 1}}
        job = job_of(tmp_path / "run", sets, optim={"max_steps": 6}, **every)
        run(job)
        assert Counter(line["step"] for line in curve(tmp_path / "run")) == dict.fromkeys(range(6), 2)
        best = store_of(job).best()
        assert best is not None
        assert set(store_of(job).list()) == {6, best.step}

    def test_a_batch_larger_than_the_set(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, optim={"global_batch_size": 10_000, "epochs": 2})
        run(job)
        lines = [line for line in curve(tmp_path / "run") if "loss" in line]
        assert [line["comparisons"] for line in lines] == [6 * STEPS, 6 * STEPS]
        assert lines[1]["loss"] < lines[0]["loss"]

    def test_one_step(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, optim={"max_steps": 1})
        run(job)
        assert [line["step"] for line in curve(tmp_path / "run")] == [0, 0]
        assert store_of(job).list() == [1]

    def test_a_finished_run_is_left_as_it_is(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, optim={"max_steps": 3})
        run(job)
        before = curve(tmp_path / "run")
        run(job)
        assert curve(tmp_path / "run") == before


class TestForeignCheckpoints:
    def test_those_of_another_run_are_refused(self, tmp_path: Path) -> None:
        own = identity(seed=1)
        store = CheckpointStore(tmp_path)
        _check_checkpoints(store, own, resume=False)
        save_as(own, tmp_path)
        _check_checkpoints(store, own, resume=True)
        with pytest.raises(RunError, match=r"add --resume"):
            _check_checkpoints(store, own, resume=False)
        with pytest.raises(RunError, match=r"(?s)step-00000005.*run\.seed: 1 -> 2"):
            _check_checkpoints(store, identity(seed=2), resume=True)

    def test_those_that_do_not_tell_whose_they_are_are_refused(self, tmp_path: Path) -> None:
        save_as({"seed": 1}, tmp_path)
        with pytest.raises(RunError, match="another rmray"):
            _check_checkpoints(CheckpointStore(tmp_path), identity(seed=1), resume=True)


def save_as(identity: dict[str, Any], directory: Path) -> None:
    """A checkpoint of step 5."""
    writer = make_writer(trained(), directory)
    writer.save(replace(state_at(5), identity=identity))
    writer.finish()


def identity(seed: int) -> dict[str, Any]:
    settings = {"run": {"seed": seed}}
    return {"settings": settings, "data": {"prepared_set": "a"}, "model": {"base": "b", "hash": "c"}, "versions": {}}
