"""What a person sees: on a terminal, in a log, and while a run is resumed."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rmray.training.events import EventLog
from rmray.training.progress import PlainDisplay, RichDisplay, follow, format_seconds, make_display

STEP = {
    "step": 4,
    "loss": 0.6931,
    "accuracy": 0.5,
    "pairs": 64,
    "comparisons": 64,
    "pairs_per_s": 12.34,
    "seconds": 2.0,
}
EVALUATION = {
    "step": 4,
    "eval_loss": 0.5,
    "eval_accuracy": 0.75,
    "eval_accuracy_low": 0.7,
    "eval_accuracy_high": 0.8,
    "eval_ece": 0.1,
}


def test_plain_lines_say_all_that_matters() -> None:
    out = io.StringIO()
    now = iter(range(0, 1000, 10))
    display = PlainDisplay(10, out, clock=lambda: float(next(now)))
    display.show({**STEP, "step": 3, "seconds": 100.0})  # it waited for the first data
    display.show(STEP)
    display.show(EVALUATION)
    assert out.getvalue().splitlines() == [
        "step 4/10  loss 0.6931  accuracy 0.500  12.3 pairs/s  ETA -",
        "step 5/10  loss 0.6931  accuracy 0.500  12.3 pairs/s  ETA 0:10",
        "held out at step 5: loss 0.5000  accuracy 0.750 [0.700, 0.800]  ECE 0.100",
    ]


def test_plain_lines_come_some_seconds_apart_and_the_last_always() -> None:
    out, now = io.StringIO(), iter([0.0, 0.0, 1.0, 6.0, 6.0, 7.0, 7.0])
    display = PlainDisplay(4, out, clock=lambda: next(now))
    for step in range(4):
        display.show({**STEP, "step": step})
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["1/4", "3/4", "4/4"]


def test_a_skipped_step_is_always_shown() -> None:
    out = io.StringIO()
    display = PlainDisplay(10, out, clock=lambda: 0.0)
    display.show(STEP)
    display.show({**STEP, "step": 5, "loss": None, "skipped": True})
    assert out.getvalue().splitlines()[1] == "step 6/10  skipped: loss or gradient not finite"


def test_a_terminal_gets_a_live_line() -> None:
    out = io.StringIO()
    display = RichDisplay(10, Console(file=out, force_terminal=True, width=120))
    display.show(STEP)
    display.show(EVALUATION)
    display.close()
    assert "loss 0.6931" in out.getvalue()
    assert "held out at step 5" in out.getvalue()
    assert isinstance(make_display(10, io.StringIO()), PlainDisplay)


def test_seconds() -> None:
    assert [format_seconds(s) for s in (0, 59.6, 3725, None)] == ["0:00", "1:00", "1:02:05", "-"]


class Recorder:
    """A display that can be awaited."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []
        self.changed = threading.Condition()

    def show(self, line: Mapping[str, Any]) -> None:
        with self.changed:
            self.steps.append(line["step"])
            self.changed.notify_all()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass

    def wait_for(self, steps: list[int]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.steps == steps, timeout=10), self.steps


def test_a_file_cut_and_grown_again_between_two_looks_is_read_on_from_a_whole_line(tmp_path: Path) -> None:
    path, recorder = tmp_path / "metrics.jsonl", Recorder()
    path.write_text("".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(9)))
    with follow(tmp_path, recorder):
        path.write_text("".join(json.dumps({"step": step, "loss": 0.123456789}) + "\n" for step in range(9)))
    assert recorder.steps == [7, 8]  # the end of the old file lies within step 6


def test_following_shows_new_lines_once_and_goes_on_where_a_resumed_run_cuts(tmp_path: Path) -> None:
    path, recorder = tmp_path / "metrics.jsonl", Recorder()
    path.write_text(json.dumps({"step": 0}) + "\n")
    with follow(tmp_path, recorder), path.open("a") as file:
        file.write('{"step": 1}\n{"st')
        file.flush()
        recorder.wait_for([1])
        file.write('ep": 2}\n')
        file.flush()
        recorder.wait_for([1, 2])
        path.write_text('{"step": 0}\n')
        file.write('{"step": 1}\n')
    assert recorder.steps in ([1, 2, 1], [1, 2])


def test_what_befalls_a_run_is_told_between_its_steps(tmp_path: Path) -> None:
    recorder, events = Recorder(), EventLog(tmp_path)
    events.write("warning", message="of an earlier start")
    with follow(tmp_path, recorder):
        events.write("run_started", resume=True)
        events.write("started", step=0, world_size=2, lost_steps=0, recovery_s=None)
        events.write("checkpoint", step=5, bytes=10, blocked_s=0.1, seconds=0.1)
        events.write("warning", kind="collapse", message="all scores are alike")
        events.write("checkpoint_failed", step=10, message="No space left on device")
        events.write("hang", rank=0, doing="a step", waited_s=31.0)
        events.write("started", step=5, world_size=1, lost_steps=3, recovery_s=40.2)
    assert recorder.notes == [
        "warning: all scores are alike",
        "warning: the checkpoint of step 10 was not saved: No space left on device",
        "rank 0 waited 31 s for a step: starting again",
        "going on at step 6 with 1 worker(s), 40 s after the last step before; 3 step(s) run again",
    ]
