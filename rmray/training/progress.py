"""Show a run while it goes: follows metrics.jsonl and events.jsonl and prints. Used by `fit`; no Ray, no torch.

On a terminal a live line with bar and ETA; elsewhere plain lines, some seconds apart, that read well in a log.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rmray.training.events import EVENTS_FILE
from rmray.training.metrics_log import METRICS_FILE

EVALUATED = {
    "eval_accuracy": "accuracy",
    "eval_auc": "AUC",
    "eval_first_error_f1": "first-error F1",
    "eval_ece": "ECE",
}
"""Held-out figures that a person is shown, where an objective has them."""
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_LOOKS = 0.3
BAR_WIDTH = 24


class Display(Protocol):
    """Shows lines of metrics.jsonl as they come, and what else befalls the run."""

    def show(self, line: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class Pace:
    """Seconds left, from the median of the last steps; None at the first step, which waits for the first data."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._recent: list[float] = []
        self._started = False

    def seconds_left(self, line: Mapping[str, Any]) -> float | None:
        if not self._started:
            self._started = True
            return None
        self._recent = [*self._recent[-19:], float(line["seconds"])]
        return (self._num_steps - 1 - int(line["step"])) * statistics.median(self._recent)


def format_step(line: Mapping[str, Any], num_steps: int, seconds_left: float | None) -> str:
    """One training step as a person reads it."""
    if line.get("skipped"):
        return f"step {line['step'] + 1}/{num_steps}  skipped: loss or gradient not finite"
    return (
        f"step {line['step'] + 1}/{num_steps}  loss {_number(line['loss'], 4)}  accuracy {_number(line['accuracy'], 3)}"
        f"  {_pace(line)}  ETA {format_seconds(seconds_left)}"
    )


def _pace(line: Mapping[str, Any]) -> str:
    """Pairs, or completions where none are compared."""
    if line["pairs"] or not line["comparisons"]:
        return f"{_number(line['pairs_per_s'], 1)} pairs/s"
    return f"{_number(line['comparisons_per_s'], 1)} completions/s"


def format_evaluation(line: Mapping[str, Any]) -> str:
    """One held-out evaluation as a person reads it."""
    figures = "".join(
        f"  {name} {_number(line[key], 3)}{_interval(line, key)}" for key, name in EVALUATED.items() if key in line
    )
    return f"held out at step {line['step'] + 1}: loss {_number(line['eval_loss'], 4)}{figures}"


def _interval(line: Mapping[str, Any], key: str) -> str:
    low, high = line.get(f"{key}_low"), line.get(f"{key}_high")
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"


def format_event(event: Mapping[str, Any]) -> str | None:
    """An event as a person reads it; None for one that needs no telling."""
    match event["event"]:
        case "warning":
            return f"warning: {event['message']}"
        case "checkpoint_failed":
            return f"warning: the checkpoint of step {event['step']} was not saved: {event['message']}"
        case "checkpoint_damaged":
            return f"warning: {event['message']}"
        case "hang":
            return f"rank {event['rank']} waited {event['waited_s']:.0f} s for {event['doing']}: starting again"
        case "started" if event.get("recovery_s") is not None:
            return (
                f"going on at step {event['step'] + 1} with {event['world_size']} worker(s), "
                f"{event['recovery_s']:.0f} s after the last step before; {event['lost_steps']} step(s) run again"
            )
    return None


def format_seconds(seconds: float | None) -> str:
    """1:02:03, or 2:03; a dash where it is not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


class PlainDisplay:
    """Lines for a log: the first step, then one every five seconds, every evaluation, every skip and the last step."""

    def __init__(self, num_steps: int, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_steps, self._out, self._clock = num_steps, out, clock
        self._pace = Pace(num_steps)
        self._last_s = float("-inf")

    def show(self, line: Mapping[str, Any]) -> None:
        if "eval_loss" in line:
            self._print(format_evaluation(line))
            return
        text = format_step(line, self._num_steps, self._pace.seconds_left(line))
        due = self._clock() - self._last_s >= SECONDS_BETWEEN_LINES
        if due or line.get("skipped") or line["step"] + 1 == self._num_steps:
            self._last_s = self._clock()
            self._print(text)

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        pass


class RichDisplay:
    """One live line with a bar; evaluations and skips stay above it."""

    def __init__(self, num_steps: int, console: Console) -> None:
        self._num_steps = num_steps
        self._pace = Pace(num_steps)
        self._live = Live(Text("waiting for the first step"), console=console, refresh_per_second=4)
        self._live.start()

    def show(self, line: Mapping[str, Any]) -> None:
        if "eval_loss" in line:
            self._live.console.print(format_evaluation(line), highlight=False)
            return
        text = format_step(line, self._num_steps, self._pace.seconds_left(line))
        if line.get("skipped"):
            self._live.console.print(text, style="yellow", highlight=False)
        filled = round(BAR_WIDTH * (line["step"] + 1) / self._num_steps)
        self._live.update(Text.assemble(("━" * filled, "green"), ("━" * (BAR_WIDTH - filled), "dim"), " ", text))

    def note(self, text: str) -> None:
        self._live.console.print(text, style="yellow", highlight=False)

    def close(self) -> None:
        self._live.stop()


def make_display(num_steps: int, out: TextIO | None = None) -> Display:
    """A live line on a terminal, plain lines elsewhere. out: standard error unless given."""
    out = out or sys.stderr
    console = Console(file=out)
    return RichDisplay(num_steps, console) if console.is_terminal else PlainDisplay(num_steps, out)


@contextmanager
def follow(run_dir: Path, display: Display) -> Iterator[None]:
    """Within it, a thread shows what is added to a run's metrics and events, and what came last, at the end."""
    stop = threading.Event()
    tails = (_Tail(run_dir / EVENTS_FILE), _Tail(run_dir / METRICS_FILE))

    def look() -> None:
        for tail in tails:
            for line in tail.new_lines():
                _show(line, display)

    def run() -> None:
        while not stop.wait(SECONDS_BETWEEN_LOOKS):
            look()
        look()

    thread = threading.Thread(target=run, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        display.close()


def _show(line: Mapping[str, Any], display: Display) -> None:
    if "event" not in line:
        display.show(line)
        return
    text = format_event(line)
    if text:
        display.note(text)


class _Tail:
    """Reads what was added to a file since it last looked. A resumed run cuts the metrics shorter first, and goes on
    from there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        self._offset = min(self._offset, self._path.stat().st_size)
        with self._path.open("rb") as file:
            file.seek(max(0, self._offset - 1))
            if self._offset and file.read(1) != b"\n":  # cut and grown again since: on with the next whole line
                self._offset += len(file.readline())
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                with contextlib.suppress(json.JSONDecodeError):  # cut off by a crash
                    yield json.loads(line)
