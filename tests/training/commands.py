"""`rmray train` as a command of its own, which a test follows by its files, and kills. Used by the recovery suites."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rmray.config.train import TrainConfig
from rmray.training.events import EVENTS_FILE, read_events
from rmray.training.metrics_log import METRICS_FILE, read_metrics
from tests.waiting import wait_for

# What differs between two runs that are the same: when and how fast.
TIMING = ("seconds", "pairs_per_s", "comparisons_per_s", "tokens_per_s", "time", "eval_seconds")
SECONDS_BETWEEN_LOOKS = 0.001
JOB = Path(__file__).parents[2] / "jobs" / "train.py"


class WhenChanged:
    """What a file says, read again where it has changed: tests look often, and the run needs the cores."""

    def __init__(self, path: Path) -> None:
        self._path, self._stamp, self._said = path, "never read", None

    def __call__(self, read: Callable[[Path], Any]) -> Any:
        stat = self._path.stat() if self._path.exists() else None
        stamp = f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}" if stat else "absent"
        if stamp != self._stamp:
            self._said, self._stamp = read(self._path), stamp
        return self._said


class TrainCommand:
    """One `rmray train CONFIG --resume`, on a Ray that runs already. environment: how it joins that."""

    def __init__(
        self, config: TrainConfig, environment: Mapping[str, str], *arguments: str, resume: bool = True
    ) -> None:
        self.run_dir = Path(config.run.storage) / config.run.name
        path = Path(config.run.storage) / f"{config.run.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        self._output = path.with_suffix(".log")
        self._events, self._metrics = WhenChanged(self.run_dir / EVENTS_FILE), WhenChanged(self.run_dir / METRICS_FILE)
        self._starts_before = len(self.starts())
        with self._output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(JOB), str(path), *(["--resume"] if resume else []), *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._output.read_text()

    def wait(self, timeout_s: float = 240) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.output()[-4000:]) from None

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
        """As `wait_for`; an AssertionError too where the command ends first."""

        def met() -> Any:
            value = condition()
            if not value and self.process.poll() is not None:
                raise AssertionError(f"ended before {what}:\n{self.output()[-4000:]}")
            return value

        return wait_for(met, timeout_s=timeout_s, what=what, seconds_between_looks=SECONDS_BETWEEN_LOOKS)

    def wait_for_start(self, number: int = 1) -> dict[str, Any]:
        """The event of this command's `number`-th start of its workers, once their first step is done."""
        self.wait_for(lambda: len(self.starts()) >= self._starts_before + number, f"start {number}")
        return self.starts()[self._starts_before + number - 1]

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.newest_step() >= step, f"step {step}")

    def newest_step(self) -> int:
        return self._metrics(lambda path: max((line["step"] for line in read_metrics(path)), default=-1))

    def send(self, pid: int, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def signal_worker(self, rank: int, number: int = signal.SIGKILL) -> None:
        """To a worker of the newest start."""
        self.send(self.starts()[-1]["processes"][rank]["pid"], number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def loading_workers(self) -> list[int]:
        """Process ids of Ray Train's workers below this test's own Ray, whether or not they have begun."""
        return [p.pid for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in "".join(_words(p))]

    def starts(self) -> list[dict[str, Any]]:
        """The run's events of starts, those of earlier commands too."""
        return self._events(lambda path: [e for e in read_events(path.parent) if e["event"] == "started"])


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


def leftovers(run_dir: Path, *, after_step: int) -> list[Path]:
    """Folders of saves under way, or broken off, of a later step than `after_step`."""
    found = (run_dir / "checkpoints").glob(".step-*")
    return [path for path in found if int(path.name.split(".")[1].removeprefix("step-")) > after_step]


def curve(run_dir: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics without the time they took."""
    return [
        {key: value for key, value in line.items() if key not in TIMING}
        for line in read_metrics(run_dir / METRICS_FILE)
    ]


def final_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    newest = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    return {name: t for file in sorted((newest / "model").glob("*.safetensors")) for name, t in load_file(file).items()}


def assert_same_run(run_dir: Path, other: Path) -> None:
    """Line for line and weight for weight."""
    assert curve(run_dir) == curve(other)
    weights, wanted = final_weights(run_dir), final_weights(other)
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def assert_same_but_for_rounding(run_dir: Path, other: Path, *, num_steps: int | None = None) -> None:
    """The same batches. Losses are a mean: they differ less than single scores. num_steps: so many, unless all."""
    lines, wanted = (
        [line for line in curve(path) if num_steps is None or line["step"] < num_steps] for path in (run_dir, other)
    )
    for got, want in zip(lines, wanted, strict=True):
        assert got.pop("row_ids_hash", None) == want.pop("row_ids_hash", None)
        assert got.get("loss", 0.0) == pytest.approx(want.get("loss", 0.0), abs=1e-5)
        assert got == pytest.approx(want, rel=1e-4, abs=1e-4)
