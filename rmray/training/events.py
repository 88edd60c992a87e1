"""What befell a run, beside its metrics: RUN/events.jsonl, one object an event. Written by `trainer` and the workers.

Never cut or rewritten: a resumed run appends. Kinds: run_started, started (workers, from a step), checkpoint,
checkpoint_failed, checkpoint_damaged, warning, hang, interrupted, failed, finished.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

EVENTS_FILE = "events.jsonl"

logger = logging.getLogger(__name__)


class EventLog:
    """Appends events. clock: seconds since the epoch."""

    def __init__(self, run_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = run_dir / EVENTS_FILE, clock

    def write(self, event: str, **fields: Any) -> None:
        """Add an event; opened anew each time, as driver and workers write to one file."""
        line = json.dumps({"time": self._clock(), "event": event, **fields})
        try:
            with self._path.open("ab+") as file:
                file.write(f"{self._line_end(file)}{line}\n".encode())
        except OSError as error:  # a full disk: the run can do without its diary, and the event may be that very disk
            logger.warning("%s could not be written (%s): %s", self._path, error, line)

    def _line_end(self, file: BinaryIO) -> str:
        """What ends a line that a crash cut off: the event after it must not share its fate."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return "\n" if file.read(1) not in (b"\n", b"") else ""


def read_events(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Events in the order in which they were written; a line that a crash cut off is left out."""
    path = run_dir / EVENTS_FILE
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue
