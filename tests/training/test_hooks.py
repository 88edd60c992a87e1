"""What follows a step: lines that say all, a guard that counts in a row, work that is due when it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from rmray.errors import TrainingError
from rmray.training.checkpoint import CheckpointWriter, TrainingState
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.events import EventLog, read_events
from rmray.training.hooks import (
    Evaluate,
    HeedNotices,
    LogSteps,
    SaveCheckpoints,
    StopWhenBroken,
    step_line,
)
from rmray.training.loop import Progress
from rmray.training.metrics_log import METRICS_FILE, MetricsLog, read_metrics
from rmray.training.notices import PREEMPTED, Notices, request_stop
from rmray.training.objective import Objective
from rmray.training.step import StepResult
from tests.training.toys import ToyBackbone


def progress(
    step: int, *, applied: bool = True, loss: float | None = 0.5, is_last: bool = False, flagged: bool = False
) -> Progress:
    result = StepResult(
        step=step, epoch=0, lr=0.1, loss=loss, accuracy=0.5, margin=0.1, mean_chosen=0.2, mean_rejected=0.1,
        score_std=1.0, score_min=-1.0, score_max=1.0, gap_max=0.1, grad_norm=2.0, ties=0, pairs=6, units=6,
        comparisons=6, tokens=60, row_ids_hash="ab", applied=applied,
        faulty_row_ids=() if applied else ("f:1",), flagged=flagged,
    )  # fmt: skip
    return Progress(result, 2.0, is_last)


class Writer:
    """Remembers what it was to save."""

    def __init__(self) -> None:
        self.saved: list[TrainingState] = []
        self.finished = False
        self.last_failed = False

    def save(self, state: TrainingState) -> None:
        self.saved.append(state)

    def finish(self) -> None:
        self.finished = True


class Evaluated(Evaluate):
    """Figures that are given, at the steps that are due."""

    def __init__(self, accuracies: dict[int, float]) -> None:
        super().__init__(list, Objective(), every_steps=1, pooling="last", log=None)
        self._accuracies = accuracies

    def __call__(self, engine: Any, progress: Progress) -> None:
        if progress.result.step in self._accuracies:
            self.latest = {"eval_accuracy": self._accuracies[progress.result.step], "eval_loss": 0.5}
            self.latest_step = progress.result.step


class Remembering:
    def memory(self) -> dict[str, Any]:
        return {"count": 3}


def saving(writer: Writer, evaluate: Evaluate, guard: StopWhenBroken, **options: Any) -> SaveCheckpoints:
    settings = {"seed": 7, "identity": {"is": "this"}, "every_steps": 4, "keep_best": False, "memory": None} | options
    return SaveCheckpoints(cast(CheckpointWriter, writer), guard, evaluate, {"some": Remembering()}, **settings)


@pytest.fixture
def engine() -> TorchEngine:
    return TorchEngine(lambda gather: ToyBackbone(), EngineSettings())


def test_a_line_says_how_fast_it_went_and_a_skipped_one_names_its_rows() -> None:
    line = step_line(progress(3))
    assert (line["step"], line["pairs_per_s"], line["tokens_per_s"], line["seconds"]) == (3, 3.0, 30.0, 2.0)
    assert not {"skipped", "faulty_row_ids", "flagged", "applied"} & line.keys()
    skipped = step_line(progress(3, applied=False, loss=None))
    assert (skipped["skipped"], skipped["loss"], skipped["faulty_row_ids"]) == (True, None, ["f:1"])


def test_the_first_step_of_a_start_says_what_the_break_cost(engine: TorchEngine, tmp_path: Path) -> None:
    lines = "".join(f'{{"step": {step}, "loss": 0.5, "time": {step}.0}}\n' for step in range(5))
    (tmp_path / METRICS_FILE).write_text(lines)
    log = MetricsLog(tmp_path, start_step=3)
    hook = LogSteps(log, EventLog(tmp_path), {"world_size": 2})
    hook(engine, progress(3))
    hook(engine, progress(4))
    log.close()
    (event,) = read_events(tmp_path)
    assert (event["event"], event["step"], event["world_size"], event["lost_steps"]) == ("started", 3, 2, 2)
    assert event["recovery_s"] == pytest.approx(event["time"] - 4.0, abs=1.0)
    assert [line["step"] for line in read_metrics(tmp_path / METRICS_FILE)] == [0, 1, 2, 3, 4]


def test_three_in_a_row_stop_and_a_good_step_starts_the_count_again(engine: TorchEngine) -> None:
    guard = StopWhenBroken()
    for applied in (False, False, True, False, False):
        guard(engine, progress(0, applied=applied, loss=None))
    with pytest.raises(TrainingError, match="3 steps in a row") as caught:
        guard(engine, progress(5, applied=False, loss=None))
    assert "f:1" in str(caught.value)


def test_a_resumed_guard_goes_on_counting(engine: TorchEngine) -> None:
    with pytest.raises(TrainingError, match="3 steps in a row"):
        StopWhenBroken(2)(engine, progress(5, applied=False))


def test_checkpoints_come_when_due_and_after_the_last_step(engine: TorchEngine) -> None:
    guard, writer = StopWhenBroken(), Writer()
    evaluate = Evaluate(list, Objective(), every_steps=3, pooling="last", log=None)
    save = saving(writer, evaluate, guard)
    for step in range(10):
        now = progress(step, is_last=step == 9)
        for hook in (guard, evaluate, save):
            hook(engine, now)
    assert [state.step for state in writer.saved] == [4, 8, 10]
    assert [state.finished for state in writer.saved] == [False, False, True]
    assert writer.finished
    last = writer.saved[-1]
    assert (last.identity, last.seed, last.evaluation) == ({"is": "this"}, 7, None)
    assert last.memory == {"some": {"count": 3}, "best": {"eval_accuracy": None}}


def test_a_better_evaluation_is_saved_though_no_checkpoint_is_due(engine: TorchEngine) -> None:
    accuracies = {0: 0.6, 1: 0.6, 2: 0.7, 3: 0.65, 5: 0.7, 6: 0.71}
    writer, evaluate = Writer(), Evaluated(accuracies)
    save = saving(writer, evaluate, StopWhenBroken(), every_steps=5, keep_best=True)
    for step in range(7):
        for hook in (evaluate, save):
            hook(engine, progress(step))
    assert [state.step for state in writer.saved] == [1, 3, 5, 7]
    assert [state.evaluation and state.evaluation["eval_accuracy"] for state in writer.saved] == [0.6, 0.7, None, 0.71]
    resumed = saving(writer, evaluate, StopWhenBroken(), every_steps=5, keep_best=True, memory={"eval_accuracy": 0.72})
    resumed(engine, progress(6))
    assert len(writer.saved) == 4


def test_a_best_that_could_not_be_saved_is_not_the_best(engine: TorchEngine) -> None:
    writer, evaluate = Writer(), Evaluated({0: 0.6, 1: 0.8, 2: 0.7, 3: 0.75, 4: 0.74})
    save = saving(writer, evaluate, StopWhenBroken(), every_steps=100, keep_best=True)
    for step in range(5):
        writer.last_failed = step == 1
        for hook in (evaluate, save):
            hook(engine, progress(step))
    assert [state.step for state in writer.saved] == [1, 2, 3, 4]


def test_a_request_to_stop_saves_and_ends_the_run_unfinished(engine: TorchEngine, tmp_path: Path) -> None:
    writer, evaluate, guard = Writer(), Evaluated({}), StopWhenBroken()
    heed, save = HeedNotices(Notices(tmp_path)), saving(writer, Evaluated({}), guard, every_steps=100)
    request_stop(tmp_path)
    quiet, told = progress(4), progress(5, flagged=True)
    for now in (quiet, told):
        for hook in (heed, evaluate, save):
            hook(engine, now)
    assert not quiet.interrupted
    assert told.interrupted
    assert [(state.step, state.finished) for state in writer.saved] == [(6, False)]
    assert writer.finished


def test_a_stop_that_comes_at_the_last_step_finds_the_run_complete(engine: TorchEngine, tmp_path: Path) -> None:
    request_stop(tmp_path)
    now = progress(5, flagged=True, is_last=True)
    HeedNotices(Notices(tmp_path))(engine, now)
    assert (now.is_last, now.interrupted) == (True, False)


def test_a_preemption_saves_once_and_goes_on(engine: TorchEngine, tmp_path: Path) -> None:
    writer, guard = Writer(), StopWhenBroken()
    notices = Notices(tmp_path, preempted=lambda: True)
    heed, save = HeedNotices(notices), saving(writer, Evaluated({}), guard, every_steps=100)
    for step in range(3):
        now = progress(step, flagged=bool(notices.pending()))
        heed(engine, now)
        save(engine, now)
        assert not now.interrupted
    assert [state.step for state in writer.saved] == [1]
    assert not writer.finished


def test_a_preemption_that_ranks_hear_of_one_after_the_other_saves_once(
    engine: TorchEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draining: list[str] = []
    notices = Notices(tmp_path, preempted=lambda: bool(draining))
    monkeypatch.setattr(engine.ranks, "gather", lambda mine: [mine, [PREEMPTED]])
    first = progress(0, flagged=True)
    HeedNotices(notices)(engine, first)
    draining.append("node")
    assert first.save_now
    assert notices.pending() == []
