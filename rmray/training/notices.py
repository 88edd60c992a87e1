"""Word from outside that a run should save, or save and end. Asked by the loop before each step; no Ray, no torch.

What one rank hears, all learn in the step's first reduction: see `step` and `hooks.HeedNotices`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

STOP_FILE = "stop-requested"

STOP, PREEMPTED = "stop", "preempted"


def request_stop(run_dir: Path) -> None:
    """Have the run save at its next step and end; called by a driver that has been told to terminate."""
    (run_dir / STOP_FILE).touch()


def forget_stop(run_dir: Path) -> None:
    (run_dir / STOP_FILE).unlink(missing_ok=True)


class Notices:
    """What this rank has heard. preempted: whether this rank's machine is to be taken away (asked until it says so)."""

    def __init__(self, run_dir: Path, *, preempted: Callable[[], bool] = lambda: False) -> None:
        self._stop_file, self._preempted = run_dir / STOP_FILE, preempted
        self._told: set[str] = set()

    def pending(self) -> list[str]:
        """STOP, PREEMPTED: those not told yet."""
        heard = {PREEMPTED: self._preempted(), STOP: self._stop_file.exists()}
        return [kind for kind, here in heard.items() if here and kind not in self._told]

    def heard(self, kinds: Iterable[str]) -> None:
        """Count these as told, whichever rank heard of them first: all ranks have acted on them."""
        self._told.update(kinds)
