"""Whole runs on the bare engine and what their evaluations bring about: early stopping, best checkpoints, warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmray.errors import TrainingError
from rmray.training.checkpoint import CheckpointStore
from rmray.training.fit import is_finished
from rmray.training.job import WorkerJob
from rmray.training.metrics_log import METRICS_FILE, read_metrics
from rmray.training.trainer import _figures, _is_exported
from tests.training.checkpoint.helpers import save, trained
from tests.training.commands import assert_same_run, curve
from tests.training.finished import finish, make_config
from tests.training.learnable import STEPS, accuracies, events_of, job_of, run, saved_steps, store_of
from tests.training.runs import run_job


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
