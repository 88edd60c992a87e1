"""One driver a run: the lock excludes, goes with its holder, and tells old workers that they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rmray.errors import RunError
from rmray.training.lock import hold_run, lock_file, still_held

HOLD = """
import sys, time
from pathlib import Path
from rmray.training.lock import hold_run
with hold_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_driver_is_told_who_holds_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "one"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match="another process") as caught, hold_run(run_dir):
        pass
    assert str(holder.pid) in str(caught.value)
    with hold_run(tmp_path / "runs" / "two"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with hold_run(run_dir) as token:
        assert still_held(run_dir, token)
    holder.stdin.close()  # type: ignore[union-attr]
    holder.stdout.close()


def test_workers_of_an_earlier_driver_learn_that_the_run_is_not_theirs(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with hold_run(run_dir) as earlier:
        assert still_held(run_dir, earlier)
    with hold_run(run_dir) as later:
        assert not still_held(run_dir, earlier)
        assert still_held(run_dir, later)
    lock_file(run_dir).unlink()
    assert still_held(run_dir, earlier)  # a storage that does not answer ends no run


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"), hold_run(tmp_path / "file" / "run"):
        pass
