"""Whole runs on the bare engine and what befalls them: early stopping, best checkpoints, warnings, stops, full disks.

The sets can be learnt in a few steps: better answers are of other tokens than worse ones. Held-out labels that
contradict make accuracy fall from its first evaluation on; labels by chance leave nothing to learn.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmray.data.chunks import local_steps
from rmray.data.prepared import Row
from rmray.errors import RunError, TrainingError
from rmray.models.tiny_base import build_tiny_base
from rmray.training.checkpoint import CheckpointStore
from rmray.training.events import EventLog, read_events
from rmray.training.fit import is_finished
from rmray.training.job import WorkerJob
from rmray.training.metrics_log import METRICS_FILE, read_metrics
from rmray.training.notices import forget_stop, request_stop
from rmray.training.storage import checkpoint_place
from rmray.training.trainer import _check_checkpoints, _figures, _is_exported
from rmray.training.worker import run_worker
from tests.conftest import TINY_TEXTS
from tests.data.prepared_sets import random_rows, write_prepared
from tests.training.checkpoint.helpers import make_writer, save, state_at, trained
from tests.training.commands import assert_same_run, curve
from tests.training.finished import finish, make_config
from tests.training.runs import make_job, run_job

STEPS = 40
HALF_OF_VOCABULARY = 100
HELD_OUT: dict[str, Any] = {"train": ["generated"], "max_length": 64, "holdout": 0.1}
DISK_BYTES = 2 * 2**20


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and sets of 40 steps."""
    directory = tmp_path_factory.mktemp("runs")
    build_tiny_base(directory / "base", TINY_TEXTS * 4, layers=1, hidden=16, vocab_size=300)
    write_set(directory / "sound", swapped=0.0, held_out_swapped=0.0)
    write_set(directory / "contradicting", swapped=0.0, held_out_swapped=1.0)
    write_set(directory / "by-chance", swapped=0.5, held_out_swapped=0.5, held_out=600)
    write_prepared(directory / "nothing-held-out", random_rows(24))
    return directory


def write_set(directory: Path, *, swapped: float, held_out_swapped: float, held_out: int = 40) -> None:
    """swapped: share of comparisons whose labels are the wrong way round."""
    train = separable(random_rows(6 * STEPS), swapped)
    write_prepared(
        directory,
        train,
        eval_rows=separable(random_rows(held_out, seed=1, file_hash="fedcba9876543210"), held_out_swapped),
    )


def separable(rows: Sequence[Row], swapped: float) -> list[Row]:
    """The better completion in tokens of the lower half of the vocabulary, the worse one in those of the upper half."""
    rng = np.random.default_rng(0)
    found = []
    for row in rows:
        better, worse = ((ids % (HALF_OF_VOCABULARY - 1) + 1).astype(np.int32) for ids in row.group.suffixes)
        pair = (better, worse + np.int32(HALF_OF_VOCABULARY))
        suffixes = pair[::-1] if rng.random() < swapped else pair
        found.append(replace(row, group=replace(row.group, suffixes=suffixes)))
    return found


def job_of(run_dir: Path, sets: Path, name: str = "sound", **sections: dict[str, Any]) -> WorkerJob:
    """Evaluates every other step and saves at every tenth, unless told otherwise."""
    filled: dict[str, Any] = {
        "data": HELD_OUT,
        "evaluate": {"every_steps": 2} | sections.pop("evaluate", {}),
        "checkpoint": {"every_steps": 10, "background": False} | sections.pop("checkpoint", {}),
    }
    return make_job(run_dir, sets / "base", sets / name, max_tokens=1000, **filled, **sections)


def run(job: WorkerJob, before: Mapping[int, Callable[[], Any]] | None = None) -> None:
    """The job from its newest checkpoint on. before: what is done before a step."""
    checkpoint = CheckpointStore(checkpoint_place(job.config)).newest()
    start_step = checkpoint.step if checkpoint else 0
    shares = local_steps(job.source, rank=0, world_size=1, start_step=start_step)
    steps = count(start_step)

    def asked() -> bool:  # before each step; its data are fetched earlier
        (before or {}).get(next(steps), lambda: None)()
        return False

    run_worker(job, checkpoint, shares, deepspeed=False, preempted=asked)


def store_of(job: WorkerJob) -> CheckpointStore:
    return CheckpointStore(checkpoint_place(job.config))


def accuracies(run_dir: Path) -> dict[int, float]:
    """Held out, by step."""
    return {line["step"]: line["eval_accuracy"] for line in curve(run_dir) if "eval_accuracy" in line}


def events_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "time"} for event in read_events(run_dir) if event["event"] == kind]


def saved_steps(run_dir: Path) -> list[int]:
    return [event["step"] for event in events_of(run_dir, "checkpoint")]


class TestEarlyStopping:
    PATIENCE = 5

    def job(self, run_dir: Path, sets: Path, patience: int | None = PATIENCE) -> WorkerJob:
        return job_of(
            run_dir, sets, "contradicting", evaluate={"patience": patience}, checkpoint={"every_steps": 4, "keep": 20}
        )

    def test_it_ends_the_run_after_so_many_evaluations_without_a_better_one(self, sets: Path, tmp_path: Path) -> None:
        endless, patient = self.job(tmp_path / "endless", sets, patience=None), self.job(tmp_path / "patient", sets)
        run(endless)
        run(patient)
        evaluated = accuracies(tmp_path / "endless")
        best_step = max(evaluated, key=lambda step: (evaluated[step], -step))
        stops_at = best_step + 2 * self.PATIENCE
        assert stops_at < STEPS - 1
        assert curve(tmp_path / "patient") == [line for line in curve(tmp_path / "endless") if line["step"] <= stops_at]
        newest = store_of(patient).newest()
        assert newest is not None
        assert (newest.step, newest.state.finished) == (stops_at + 1, True)
        assert newest.state.evaluation is not None
        assert newest.state.evaluation["eval_accuracy"] == evaluated[stops_at]

    def test_a_resumed_run_stops_at_the_same_step(self, sets: Path, tmp_path: Path) -> None:
        whole, broken = (self.job(tmp_path / name, sets) for name in ("whole", "broken"))
        run(whole)
        last = curve(tmp_path / "whole")[-1]["step"]
        run_job(broken, deepspeed=False, killed_at=last)
        before = store_of(broken).newest()
        assert before is not None
        assert not before.state.finished
        assert 0 < before.state.memory["early_stopping"]["without_better"] < self.PATIENCE
        run(broken)
        assert_same_run(tmp_path / "broken", tmp_path / "whole")

    def test_more_patience_has_it_go_on_as_if_it_had_never_stopped(self, sets: Path, tmp_path: Path) -> None:
        whole, stopped = (self.job(tmp_path / name, sets, patience=self.PATIENCE + 3) for name in ("whole", "stopped"))
        impatient = self.job(tmp_path / "stopped", sets)
        run(whole)
        run(impatient)
        newest = store_of(impatient).newest()
        assert is_finished(newest, impatient)
        assert not is_finished(newest, stopped)
        run(stopped)
        assert is_finished(store_of(stopped).newest(), stopped)
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")


class TestBestCheckpoint:
    def job(self, run_dir: Path, sets: Path) -> WorkerJob:
        # 7 divides no multiple of 10 below the end: no evaluation comes with a periodic checkpoint.
        return job_of(run_dir, sets, "contradicting", evaluate={"every_steps": 7}, checkpoint={"keep": 1})

    def test_it_is_saved_between_the_others_and_kept_beside_the_newest(self, sets: Path, tmp_path: Path) -> None:
        job = self.job(tmp_path / "run", sets)
        run(job)
        evaluated = accuracies(tmp_path / "run")
        best_step = max(evaluated, key=lambda step: (evaluated[step], -step))
        assert best_step < STEPS - 1
        assert (best_step + 1) % 10 != 0
        assert store_of(job).list() == [STEPS, best_step + 1]
        assert saved_steps(tmp_path / "run") == sorted({10, 20, 30, STEPS, best_step + 1})
        best = store_of(job).best()
        assert best is not None
        assert best.step == best_step + 1

    def test_what_is_told_of_it_are_its_own_figures(self, sets: Path, tmp_path: Path) -> None:
        job = self.job(tmp_path / "run", sets)
        run(job)
        best, newest = store_of(job).best(), store_of(job).newest()
        assert best is not None
        assert newest is not None
        lines = [line for line in curve(tmp_path / "run") if "loss" in line]
        for checkpoint in (best, newest):
            told = _figures(tmp_path / "run", checkpoint)
            assert checkpoint.state.evaluation is not None
            assert {
                k: v for k, v in told.items() if k.startswith("eval_")
            }.items() <= checkpoint.state.evaluation.items()
            assert (told["steps"], told["loss"]) == (checkpoint.step, lines[checkpoint.step - 1]["loss"])
        assert _figures(tmp_path / "run", best)["eval_accuracy"] > _figures(tmp_path / "run", newest)["eval_accuracy"]

    def test_a_bundle_is_made_anew_where_another_checkpoint_is_to_be_it(self, tmp_path: Path) -> None:
        config = make_config(tmp_path)
        run_dir = tmp_path / config.run.name
        store = CheckpointStore(run_dir / "checkpoints")
        for step in (5, 6):
            save(trained(), store, step)
        assert not _is_exported(run_dir, store.open(6))
        finish(config, {"steps": 6.0})
        assert _is_exported(run_dir, store.open(6))
        assert not _is_exported(run_dir, store.open(5))

    def test_a_damaged_bundle_is_made_anew(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = make_config(tmp_path)
        run_dir = tmp_path / config.run.name
        store = CheckpointStore(run_dir / "checkpoints")
        save(trained(), store, 6)
        finish(config, {"steps": 6.0})
        manifest = run_dir / "bundle" / "rmray.json"
        sound = manifest.read_text()
        for damaged in (sound[:-20], "[]", sound.replace('"files": {}', '"files": {"model.safetensors": "0"}')):
            assert damaged != sound
            manifest.write_text(damaged)
            assert not _is_exported(run_dir, store.open(6))
            assert "the bundle is made anew: the bundle" in capsys.readouterr().err
        manifest.write_text(sound)
        assert _is_exported(run_dir, store.open(6))

    def test_a_resumed_run_knows_what_was_best(self, sets: Path, tmp_path: Path) -> None:
        whole, broken = (self.job(tmp_path / name, sets) for name in ("whole", "broken"))
        run(whole)
        run_job(broken, deepspeed=False, killed_at=25)
        run(broken)
        assert store_of(broken).list() == store_of(whole).list()
        again = set(saved_steps(tmp_path / "broken")) - set(saved_steps(tmp_path / "whole"))
        assert again == set()

    def test_none_is_kept_where_none_is_wanted(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, "contradicting", checkpoint={"keep": 1, "keep_best": False})
        run(job)
        assert store_of(job).list() == [STEPS]


class TestWarnings:
    def test_labels_by_chance_are_told_of_once_and_so_after_a_resume(self, sets: Path, tmp_path: Path) -> None:
        steps = {"evaluate": {"every_steps": 14}, "checkpoint": {"every_steps": 5}}
        for name, killed_at in (("whole", None), ("before", 13), ("after", 24)):
            job = job_of(tmp_path / name, sets, "by-chance", **steps)
            run_job(job, deepspeed=False, killed_at=killed_at)
            if killed_at:
                run(job)
        told = events_of(tmp_path / "whole", "warning")
        assert [(event["kind"], event["step"]) for event in told] == [("not learning", 13)]
        assert told[0]["figures"]["eval_accuracy_high"] < 0.6
        assert {"seen", "why", "advice", "message"} <= told[0].keys()
        assert events_of(tmp_path / "before", "warning") == told
        assert events_of(tmp_path / "after", "warning") == told

    def test_a_rate_that_explodes_is_told_of_and_ends_the_run(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets, optim={"lr": 1e3}, evaluate={"every_steps": 100})
        with pytest.raises(TrainingError, match=r"lower optim\.lr"):
            run(job)
        assert "unstable" in {event["kind"] for event in events_of(tmp_path / "run", "warning")}

    def test_a_healthy_run_is_told_nothing(self, sets: Path, tmp_path: Path) -> None:
        job = job_of(tmp_path / "run", sets)
        run_job(job, deepspeed=False, killed_at=27)
        run(job)
        assert accuracies(tmp_path / "run")[STEPS - 1] == 1.0
        assert events_of(tmp_path / "run", "warning") == []

    def test_the_metrics_hold_what_warnings_go_by_and_no_inner_state(self, sets: Path, tmp_path: Path) -> None:
        run(job_of(tmp_path / "run", sets, optim={"max_steps": 2}))
        step = next(line for line in read_metrics(tmp_path / "run" / METRICS_FILE) if "loss" in line)
        assert step["gap_max"] >= abs(step["margin"])
        assert not step.keys() & {"flagged", "applied", "faulty_row_ids", "skipped"}


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
