"""The diary: what it keeps, what a resumed run forgets, and that it is valid JSON."""

from __future__ import annotations

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rmray.training.metrics_log import MetricsLog, forget_from, read_metrics


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
    with path.open("a") as held:
        forget_from(path, 3)
        held.write('{"step": 3, "loss": 2.0}\n')
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]
    forget_from(path, 0)
    assert path.read_text() == ""
