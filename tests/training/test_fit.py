"""What is decided around Ray Train: when to try again, when to give up, who leaves. With Ray Train itself replaced."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train

from rmray.errors import ClusterError, DataError, RunError, RunInterruptedError, TrainingError
from rmray.training import fit as module
from rmray.training.auto import Choices, keep_choices
from rmray.training.checkpoint import CheckpointStore
from rmray.training.events import EventLog
from rmray.training.faults import write_fault
from rmray.training.lock import hold_run, lock_file
from rmray.training.notices import STOP_FILE
from tests.training.runs import make_job, run_job

ADDRESS = "10.0.0.1:6379"
FAILED = ray.train.TrainingFailedError


class Fits:
    """Does in turn what it is told, in place of Ray Train."""

    def __init__(self, *fits: Callable[[], None]) -> None:
        self._fits = list(fits)

    def __call__(self, job: Any) -> Fits:
        return self

    def fit(self) -> None:
        self._fits.pop(0)()


class FakeStore:
    """Steps of checkpoints; the newest is finished, after the last step, or not."""

    where = "nowhere"

    def __init__(self, *steps: int, finished: bool = False) -> None:
        self.steps, self.finished = set(steps), finished

    def list(self) -> list[int]:
        return sorted(self.steps, reverse=True)

    def newest(self, *, verify: bool = True) -> Any:
        return a_checkpoint(max(self.steps), finished=self.finished) if self.steps else None


def a_checkpoint(step: int, *, finished: bool, without_better: int = 0) -> Any:
    memory = {"early_stopping": {"without_better": without_better}}
    return SimpleNamespace(step=step, state=SimpleNamespace(finished=finished, memory=memory))


def fails() -> None:
    raise FAILED("a worker died")


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls `fit` with what Ray Train is to do, and a store. No Ray runs: a cluster that answers is made believe."""
    from tests.data.prepared_sets import random_rows, write_prepared

    write_prepared(tmp_path / "set", random_rows(12))
    job = make_job(tmp_path / "run", tiny_base, tmp_path / "set")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=ADDRESS))
    monkeypatch.setattr(module, "probe", lambda address: "token")

    def call(store: Any, *told: Callable[[], None]) -> None:
        monkeypatch.setattr(module, "_make_trainer", Fits(*told))
        with hold_run(Path(job.run_dir)) as owner:
            module.fit(module.replace(job, owner=owner), store, EventLog(Path(job.run_dir)))

    call.run_dir = Path(job.run_dir)  # type: ignore[attr-defined]
    return call


def test_a_series_that_brought_a_checkpoint_is_followed_by_another(run: Any) -> None:
    store = FakeStore(100, 150)

    def gets_on() -> None:  # the newest was damaged: it is gone, and older steps are new
        store.steps = {110, 130}
        fails()

    def ends() -> None:
        store.steps, store.finished = {200}, True

    run(store, gets_on, ends)


def test_a_series_that_brought_none_is_the_last(run: Any) -> None:
    with pytest.raises(TrainingError, match="without getting to another checkpoint"):
        run(FakeStore(100), fails)


def unsteered() -> None:
    raise ray.exceptions.RayError("the controller was killed")


def test_a_run_survives_the_actor_that_steers_it(run: Any) -> None:
    store = FakeStore(100)

    def ends() -> None:
        store.finished = True

    run(store, *[unsteered] * 3, ends)  # max_failures is 3
    store.finished = False
    with pytest.raises(TrainingError, match="the controller was killed"):
        run(store, *[unsteered] * 4)


def test_an_actor_lost_many_times_does_not_matter_where_the_run_gets_on(run: Any) -> None:
    store = FakeStore(100)

    def gets_on() -> None:
        store.steps.add(150)
        unsteered()

    def ends() -> None:
        store.finished = True

    run(store, *[unsteered] * 3, gets_on, *[unsteered] * 3, ends)


def test_a_fault_of_ours_is_raised_though_the_actor_is_lost_with_it(run: Any) -> None:
    def both() -> None:
        write_fault(run.run_dir, DataError("a window is damaged"))
        unsteered()

    with pytest.raises(DataError, match="a window is damaged"):
        run(FakeStore(100), both)


@pytest.mark.parametrize(
    ("text", "why"), [("the controller was killed\nby somebody", "the controller was killed"), ("", "RayError")]
)
def test_a_run_whose_cluster_is_gone_says_so_at_once(
    run: Any, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    asked = []
    monkeypatch.setattr(module, "probe", lambda address: asked.append(address) or "silent")

    def loses_all() -> None:
        raise ray.exceptions.RayError(text)

    with pytest.raises(ClusterError, match="cluster that trained this run is gone") as raised:
        run(FakeStore(50, 100), loses_all)
    assert asked == [ADDRESS]
    assert (raised.value.where, raised.value.why) == (ADDRESS, why)
    assert "step 100 is saved" in raised.value.next_step
    assert "--resume" in raised.value.next_step


def test_an_elastic_run_counts_its_places_each_minute(tmp_path: Path, tiny_base: Path) -> None:
    from tests.data.prepared_sets import random_rows, write_prepared

    write_prepared(tmp_path / "set", random_rows(12))
    job = make_job(tmp_path / "run", tiny_base, tmp_path / "set", workers={"num": (1, 3)})
    scaling = module._make_trainer(job).scaling_config
    assert scaling.num_workers == (1, 3)
    assert scaling.elastic_resize_monitor_interval_s == 60


def test_a_fault_of_ours_is_raised_as_it_was_and_ends_the_run(run: Any) -> None:
    with pytest.raises(DataError, match="a window is damaged"):
        run(FakeStore(), lambda: write_fault(run.run_dir, DataError("a window is damaged")))


def test_a_run_that_ends_unfinished_was_told_to(run: Any) -> None:
    with pytest.raises(RunInterruptedError, match="--resume"):
        run(FakeStore(7), lambda: None)


def test_a_driver_whose_run_was_taken_over_gives_it_up(run: Any) -> None:
    store = FakeStore(1)

    def taken_over() -> None:
        lock_file(run.run_dir).write_text(json.dumps({"token": "another"}))
        store.steps.add(2)
        fails()

    with pytest.raises(RunError, match="taken over"):
        run(store, taken_over)


def test_sigterm_asks_the_workers_to_stop_and_the_next_one_ends_the_process(run: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def told() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append((run.run_dir / STOP_FILE).exists())
        seen.append(signal.getsignal(signal.SIGTERM) == before)

    with pytest.raises(RunInterruptedError):
        run(FakeStore(7), told)
    assert seen == [True, True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_leaves_where_another_rank_failed_or_another_driver_came(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with hold_run(run_dir) as owner:
        assert module._reason_to_leave(run_dir, owner) is None
        assert "taken over" in str(module._reason_to_leave(run_dir, "earlier"))
        write_fault(run_dir, DataError("broken"))
        assert "another rank" in str(module._reason_to_leave(run_dir, owner))


def test_only_a_finished_checkpoint_ends_a_run(tmp_path: Path, tiny_base: Path) -> None:
    from tests.data.prepared_sets import random_rows, write_prepared

    write_prepared(tmp_path / "set", random_rows(12))
    job = make_job(tmp_path / "run", tiny_base, tmp_path / "set", checkpoint={"every_steps": 1, "background": False})
    run_job(job, deepspeed=False)
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert module.is_finished(store.newest(), job)
    assert not module.is_finished(None, job)
    last, before = store.list()[:2]
    weights = tmp_path / "run" / "checkpoints" / f"step-{last:08d}" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    newest = store.newest()
    assert newest is not None
    assert newest.step == before
    assert not module.is_finished(newest, job)


@pytest.mark.parametrize(("patience", "over"), [(1, True), (2, True), (3, False), (None, False)])
def test_a_run_stopped_early_is_over_as_long_as_its_patience_is(patience: int | None, over: bool) -> None:
    job: Any = SimpleNamespace(num_steps=40, config=SimpleNamespace(evaluate=SimpleNamespace(patience=patience)))
    assert module.is_finished(a_checkpoint(20, finished=True, without_better=2), job) == over
    assert module.is_finished(a_checkpoint(40, finished=True, without_better=2), job)
    assert not module.is_finished(a_checkpoint(20, finished=False, without_better=2), job)


@pytest.mark.parametrize(
    ("before", "now", "kept"), [(1000, 990, 1000), (1000, 1200, 1000), (1000, 801, 1000), (1000, 700, 700)]
)
def test_a_resumed_run_keeps_its_budget_where_it_about_fits(
    before: int, now: int, kept: int, tmp_path: Path, tiny_base: Path
) -> None:
    def choices(tokens: int, **others: Any) -> Choices:
        settings: Mapping[str, Any] = {"device": "cpu", "bfloat16": False, "zero_stage": 0} | others
        return Choices(**settings, gradient_checkpointing=False, max_micro_batch_tokens=tokens)

    from rmray.config.train import TrainConfig

    config = TrainConfig.model_validate({"data": {"train": ["a"]}, "model": {"base": "b"}})
    assert keep_choices(config, before=choices(before), now=choices(now)).max_micro_batch_tokens == kept
    assert keep_choices(config, before=choices(before), now=choices(now, device="cuda")).device == "cuda"
    given = config.model_copy(update={"workers": config.workers.model_copy(update={"max_micro_batch_tokens": 4096})})
    assert keep_choices(given, before=choices(before), now=choices(4096)).max_micro_batch_tokens == 4096
