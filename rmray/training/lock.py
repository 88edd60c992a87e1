"""One driver a run: a lock beside the run directory, and the name of who holds it. Called by `trainer`, `fit`; no Ray.

The lock is the operating system's, so that it goes with the driver that held it, however that ended. Workers, which
may outlive a killed driver by some seconds, carry their driver's token and end once another one stands in the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rmray.errors import RunError

logger = logging.getLogger(__name__)

# What file systems without locks answer.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def lock_file(run_dir: Path) -> Path:
    """Beside the run directory, which may be emptied while it is held."""
    return run_dir.parent / f".{run_dir.name}.lock"


@contextmanager
def hold_run(run_dir: Path) -> Iterator[str]:
    """Hold a run for this process; the token of this hold. Raises RunError where another process holds it, and where
    the directory cannot be made."""
    path = lock_file(run_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError("runs cannot be written here", where=str(path.parent), why=str(error)) from error
    with file:
        _lock(file, run_dir)
        token = uuid.uuid4().hex
        holder = {"token": token, "pid": os.getpid(), "host": platform.node(), "since": time.time()}
        file.truncate(0)
        file.write(json.dumps(holder))
        file.flush()
        yield token


def still_held(run_dir: Path, token: str) -> bool:
    """Whether the run belongs to the driver with this token; True where the file cannot be read at the moment."""
    try:
        return bool(json.loads(lock_file(run_dir).read_text())["token"] == token)
    except (OSError, ValueError, KeyError):
        return True


def _lock(file: IO[str], run_dir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise RunError(
            "another process is training this run",
            where=str(run_dir),
            why=_describe(file.read()),
            next_step="wait for it or stop it; the same command with --resume goes on from the newest checkpoint",
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s: its file system has no locks; see that no other process trains this run", run_dir)


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
        return f"process {holder['pid']} on {holder['host']} holds it since {since}"
    except (ValueError, KeyError):
        return "it holds the run's lock"
