"""The diary: what it keeps, what a resumed run forgets, and that it is valid JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rmray.training.metrics_log import MetricsLog, figures_of, forget_from, read_metrics


def test_lines_and_tensorboard(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write({"step": 0, "loss": 0.5, "row_ids_hash": "ab"})
    log.write({"step": 0, "eval_loss": 0.75})
    log.write({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    log.close()
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert lines[:2] == [{"step": 0, "loss": 0.5, "row_ids_hash": "ab"}, {"step": 0, "eval_loss": 0.75}]
    assert lines[2] == {"step": 1, "loss": None, "grad_norm": None}
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {tag: board.Scalars(tag)[0].value for tag in board.Tags()["scalars"]} == {
        "train/loss": 0.5,
        "eval/loss": 0.75,
    }


def test_a_resumed_run_forgets_what_it_will_write_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in range(5)) + '{"step": 5, "lo')
    assert [line["step"] for line in read_metrics(path)] == [0, 1, 2, 3, 4]
    forget_from(path, 5)
    assert path.read_text().endswith('{"step": 4, "loss": 1.0}\n')
    with path.open("a") as held:
        forget_from(path, 3)
        held.write('{"step": 3, "loss": 2.0}\n')
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]
    forget_from(path, 0)
    assert path.read_text() == ""


def test_figures_are_of_one_step_alone(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(3):
        log.write({"step": step, "loss": step / 10, "lr": 0.1})
    log.write({"step": 2, "eval_accuracy": 0.75})
    log.write({"step": 3, "loss": 0.3})
    log.close()
    path = tmp_path / "metrics.jsonl"
    assert figures_of(path, 1) == {"loss": 0.1}
    assert figures_of(path, 2) == {"loss": 0.2, "eval_accuracy": 0.75}
    assert figures_of(path, 4) == {}


class FillingDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        count: int = self._file.write(content[: self.room])
        self.room -= count
        return count

    def close(self) -> None:
        self._file.close()


def test_lines_wait_until_a_full_disk_has_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = MetricsLog(tmp_path)
    log._file = disk = FillingDisk(log._file, room=20)  # type: ignore[assignment]
    for step in range(3):
        log.write({"step": step})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0}\n{"step":'
    disk.room = 100
    log.write({"step": 3})
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert len(caplog.messages) == 1


def test_lines_that_found_no_room_to_the_end_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = MetricsLog(tmp_path)
    log._file = FillingDisk(log._file, room=20)  # type: ignore[assignment]
    for step in range(3):
        log.write({"step": step})
    log.close()
    assert "lacks its last 2 line(s)" in caplog.messages[-1]
    assert MetricsLog(tmp_path, start_step=1).lost_steps == 0
