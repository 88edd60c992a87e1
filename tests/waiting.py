"""Wait for a condition, never for a time. Used by tests that watch other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], *, timeout_s: float, what: str, seconds_between_looks: float = 0.05) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(seconds_between_looks)
    raise AssertionError(f"waited {timeout_s} s for {what}")
