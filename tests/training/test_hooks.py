"""What follows a step: lines that say all, a guard that counts in a row, work that is due when it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmray.errors import TrainingError
from rmray.training.engine import EngineSettings, TorchEngine
from rmray.training.hooks import Evaluate, Report, SaveCheckpoints, StopWhenBroken, step_line
from rmray.training.loop import Progress
from rmray.training.state import newest_checkpoint
from rmray.training.step import Objective, StepResult
from tests.training.toys import ToyBackbone


def progress(step: int, *, applied: bool = True, loss: float | None = 0.5, is_last: bool = False) -> Progress:
    result = StepResult(
        step=step, epoch=0, lr=0.1, loss=loss, accuracy=0.5, margin=0.1, mean_chosen=0.2, mean_rejected=0.1,
        score_std=1.0, score_min=-1.0, score_max=1.0, grad_norm=2.0, ties=0, pairs=6, comparisons=6, tokens=60,
        row_ids_hash="ab", applied=applied, faulty_row_ids=() if applied else ("f:1",),
    )  # fmt: skip
    return Progress(result, 2.0, is_last)


@pytest.fixture
def engine() -> TorchEngine:
    return TorchEngine(lambda gather: ToyBackbone(), EngineSettings())


def test_a_line_says_how_fast_it_went_and_a_skipped_one_names_its_rows() -> None:
    line = step_line(progress(3))
    assert (line["step"], line["pairs_per_s"], line["tokens_per_s"], line["seconds"]) == (3, 3.0, 30.0, 2.0)
    assert "skipped" not in line
    assert "faulty_row_ids" not in line
    skipped = step_line(progress(3, applied=False, loss=None))
    assert (skipped["skipped"], skipped["loss"], skipped["faulty_row_ids"]) == (True, None, ["f:1"])


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


def test_checkpoints_and_reports_come_when_due_and_after_the_last_step(engine: TorchEngine, tmp_path: Path) -> None:
    guard, told = StopWhenBroken(), list[dict[str, Any]]()
    save = SaveCheckpoints(
        tmp_path, guard, {"seed": 1}, every_steps=4, keep=9, save_model_extras=lambda directory: None
    )
    evaluate = Evaluate(list, Objective(), every_steps=3, pooling="last", log=None)
    report = Report(told.append, evaluate, (3, 4))
    for step in range(10):
        now = progress(step, is_last=step == 9)
        for hook in (guard, evaluate, save, report):
            hook(engine, now)
    assert sorted(int(p.name.removeprefix("step-")) for p in tmp_path.iterdir()) == [4, 8, 10]
    assert [figures["step"] for figures in told] == [2, 3, 5, 7, 8, 9]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.state.identity == {"seed": 1}
