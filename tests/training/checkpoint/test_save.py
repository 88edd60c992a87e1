"""Saving off the critical path: what waits for what, how much memory it takes, and what a failing storage does."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rmray.errors import TrainingError
from rmray.training.checkpoint import CheckpointStore
from rmray.training.checkpoint.layout import Attempt
from rmray.training.checkpoint.write import Room, Shard, WriteJob
from tests.training.checkpoint.helpers import (
    WAIT_S,
    FailingFiles,
    GatedFiles,
    contents,
    make_writer,
    save,
    state_at,
    train,
    trained,
)


def test_a_background_save_is_the_synchronous_one_byte_for_byte(tmp_path: Path) -> None:
    """Though the training goes on before a byte of it is written."""
    engine = trained()
    save(engine, tmp_path / "now", 2)
    files = GatedFiles(tmp_path / "later", "model")
    writer = make_writer(engine, CheckpointStore(files), background=True)
    writer.save(state_at(2))
    assert files.reached.wait(WAIT_S)
    train(engine, 3)
    assert list(CheckpointStore(tmp_path / "later").list()) == []
    files.gate.set()
    writer.finish()
    assert contents(tmp_path / "later") == contents(tmp_path / "now")


def test_the_next_save_waits_for_the_one_before(tmp_path: Path) -> None:
    files = GatedFiles(tmp_path, "COMPLETE")
    writer = make_writer(trained(), CheckpointStore(files), background=True)
    writer.save(state_at(1))
    assert files.reached.wait(WAIT_S)
    second = threading.Thread(target=writer.save, args=(state_at(2),), daemon=True)
    second.start()
    assert not (tmp_path / "step-00000001").exists()
    assert not list(tmp_path.glob(".step-00000002*"))
    files.gate.set()
    second.join(WAIT_S)
    writer.finish()
    assert list(CheckpointStore(tmp_path).list()) == [2, 1]


class FakeClock:
    """Time that passes when a file of a given kind is written."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SlowFiles(GatedFiles):
    def __init__(self, where: Path, clock: FakeClock, seconds: float) -> None:
        super().__init__(where, "nothing")
        self.clock, self.seconds = clock, seconds

    def write(self, name: str, pieces: Any) -> Any:
        if name.endswith("COMPLETE"):
            self.clock.now_s += self.seconds
        return super().write(name, pieces)


@pytest.mark.parametrize(("seconds", "waits"), [(1.9, True), (2.1, False)])
def test_auto_waits_for_quick_saves_alone(tmp_path: Path, seconds: float, waits: bool) -> None:
    clock = FakeClock()
    files = SlowFiles(tmp_path, clock, seconds)
    writer = make_writer(trained(), CheckpointStore(files), background="auto", clock=clock)
    writer.save(state_at(1))  # how long it takes is not known yet: this one is waited for
    assert (tmp_path / "step-00000001").exists()
    files.gated = "COMPLETE"
    if waits:
        files.gate.set()
    writer.save(state_at(2))
    assert (tmp_path / "step-00000002").exists() == waits
    files.gate.set()
    writer.finish()


def test_what_is_told_of_a_save(tmp_path: Path) -> None:
    clock, told = FakeClock(), []
    writer = make_writer(
        trained(),
        CheckpointStore(SlowFiles(tmp_path, clock, 3.0)),
        on_saved=lambda *facts: told.append(facts),
        clock=clock,
    )
    writer.save(state_at(1))
    writer.finish()
    folder = tmp_path / "step-00000001"
    num_bytes = sum(
        p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name not in ("COMPLETE", "manifest.json")
    )
    assert told == [(1, num_bytes, 3.0, 3.0)]
    assert writer.blocked_s == 3.0


def test_what_waits_in_memory_is_bounded() -> None:
    room, taken = Room(), threading.Event()
    room.set_limit(100)
    room.take(60)
    room.take(40)
    third = threading.Thread(target=lambda: (room.take(50), taken.set()), daemon=True)
    third.start()
    room.give_back(40)
    assert not taken.is_set()
    room.give_back(60)
    assert taken.wait(WAIT_S)


def test_one_shard_always_has_room() -> None:
    room = Room()
    room.set_limit(0)
    room.take(1000)
    room.give_back(1000)
    room.take(2000)


class CountingEngine:
    """An engine of ten tensors of 400 bytes which notes how many it has given out."""

    def __init__(self) -> None:
        self.ranks = trained(0).ranks
        self.updates, self.backbone, self.given = 0, None, 0
        self.slow = threading.Event()

    def tensor_sizes(self) -> dict[str, int]:
        return {f"t{i}": 100 for i in range(10)}

    def trained_names(self) -> set[str]:
        return set()

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for i in range(10):
            self.given += 1
            if self.given == 4:
                self.slow.set()
            yield f"t{i}", torch.full((100,), float(i))


def test_a_save_goes_shard_by_shard_where_memory_is_short(tmp_path: Path) -> None:
    engine, files = CountingEngine(), GatedFiles(tmp_path, "-of-00010")
    writer = make_writer(engine, CheckpointStore(files), background=True, max_shard_bytes=400, free_bytes=lambda: 1200)
    saving = threading.Thread(target=writer.save, args=(state_at(1, updates=0),), daemon=True)
    saving.start()
    assert files.reached.wait(WAIT_S)
    # Three shards fill the room; the fourth is not even asked for until one has been written.
    saving.join(0.2)
    assert saving.is_alive()
    assert engine.given <= 3
    files.gate.set()
    saving.join(WAIT_S)
    writer.finish()
    assert engine.given == 10
    assert CheckpointStore(tmp_path).open(1).step == 1


def test_a_rank_that_fails_makes_room_before_it_reports(tmp_path: Path) -> None:
    """Its own files go first: on a full disk there would be no room for the report."""
    files, attempt = FailingFiles(tmp_path, "second"), Attempt(1, "ab")
    job = WriteJob(files, attempt, 1, Room(), None)
    for name in ("first", "second", "third"):
        job.put(Shard(name, {"t": torch.zeros(3)}, 12))
    job.seal()
    assert job.done.wait(WAIT_S)
    assert "No space left" in str(job.fault)
    assert list(files.names("")) == [attempt.part(1)]


@pytest.mark.parametrize(
    "fails", ["model.safetensors", "optimizer", "config.json", "state.json", "manifest", "COMPLETE"]
)
def test_a_failed_save_harms_nothing_and_the_next_one_makes_up_for_it(tmp_path: Path, fails: str) -> None:
    files, failed, saved = FailingFiles(tmp_path), [], []
    writer = make_writer(
        trained(),
        CheckpointStore(files),
        keep=1,
        on_failed=lambda step, message: failed.append((step, message)),
        on_saved=lambda step, *facts: saved.append(step),
    )
    writer.save(state_at(1))
    sound = contents(tmp_path)
    files.fails = fails
    writer.save(state_at(2))
    assert contents(tmp_path) == sound
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]
    assert [step for step, _ in failed] == [2]
    assert "No space left" in failed[0][1]
    files.fails = None
    writer.save(state_at(3))
    writer.finish()
    assert saved == [1, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_extras_that_cannot_be_made_are_a_failed_save(tmp_path: Path) -> None:
    def full(model_dir: Path) -> None:
        raise OSError(28, "No space left on device")

    writer = make_writer(trained(), tmp_path, save_model_extras=full)
    writer.save(state_at(1))
    with pytest.raises(TrainingError, match="last checkpoint could not") as raised:
        writer.finish()
    assert str(tmp_path) in str(raised.value)
    assert "No space left" in raised.value.why
    assert "--resume" in raised.value.next_step


def test_three_failures_in_a_row_end_the_run_and_fewer_do_not(tmp_path: Path) -> None:
    files = FailingFiles(tmp_path)
    writer = make_writer(trained(), CheckpointStore(files))
    for step, fails in enumerate(("COMPLETE", "COMPLETE", None, "model", "model"), start=1):
        files.fails = fails
        writer.save(state_at(step))
    with pytest.raises(TrainingError, match="3 checkpoints in a row"):
        writer.save(state_at(6))
    assert list(CheckpointStore(tmp_path).list()) == [3]


def test_a_run_that_was_taken_over_is_left_alone(tmp_path: Path) -> None:
    mine, told = True, []
    writer = make_writer(
        trained(),
        tmp_path,
        keep=1,
        still_mine=lambda: mine,
        on_saved=lambda *facts: told.append(facts),
        on_failed=lambda *facts: told.append(facts),
    )
    writer.save(state_at(1))
    left_by_other = tmp_path / ".step-00000009.theirs" / "rank-00001.json"
    left_by_other.parent.mkdir()
    left_by_other.write_text("{}")
    told.clear()
    mine = False
    writer.save(state_at(2))
    writer.finish()
    assert told == []
    assert left_by_other.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".step-00000009.theirs", "step-00000001"]


def test_a_run_taken_over_while_it_was_writing_does_not_complete(tmp_path: Path) -> None:
    files = GatedFiles(tmp_path, "manifest.json")
    mine = True
    writer = make_writer(trained(), CheckpointStore(files), background=True, still_mine=lambda: mine)
    writer.save(state_at(1))
    assert files.reached.wait(WAIT_S)
    mine = False
    files.gate.set()
    writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_breaks_off_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = trained()
    writer = make_writer(engine, tmp_path)

    def moments() -> Iterator[tuple[str, torch.Tensor]]:
        raise RuntimeError("a collective failed")
        yield

    monkeypatch.setattr(engine, "moments", moments)
    with pytest.raises(RuntimeError, match="a collective failed"):
        writer.save(state_at(1))
    with pytest.raises(TrainingError, match="a collective failed"):
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    writer = make_writer(trained(), tmp_path, keep=1)
    writer.save(state_at(1))
    writer.save(state_at(1, finished=True))
    writer.finish()
    assert CheckpointStore(tmp_path).open(1).state.finished
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_survived(small_disk: Path) -> None:
    engine, failed = trained(), []
    writer = make_writer(engine, small_disk, keep=1, on_failed=lambda step, message: failed.append(message))
    writer.save(state_at(1))
    (small_disk / "other").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    writer.save(state_at(2))
    assert "No space left" in failed[0]
    found = CheckpointStore(small_disk).newest()
    assert found is not None
    assert found.step == 1
    assert sorted(p.name for p in small_disk.iterdir()) == ["other", "step-00000001"]
    writer.save(state_at(3))
    with pytest.raises(TrainingError, match="could not be written"):
        writer.finish()
    (small_disk / "other").unlink()
    save(engine, small_disk, 4)
    newest = CheckpointStore(small_disk).newest()
    assert newest is not None
    assert newest.step == 4
