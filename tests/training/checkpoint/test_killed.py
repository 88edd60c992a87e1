"""A process killed in mid-save leaves no checkpoint, and nothing that the run which goes on would stumble over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from rmray.training.checkpoint import CheckpointStore
from rmray.training.checkpoint.files import Files
from rmray.training.checkpoint.layout import Facts
from tests.spawn import run_ranks
from tests.training.checkpoint.helpers import contents, make_writer, save, state_at, trained
from tests.training.checkpoint.test_object_store import endpoint, names, url  # noqa: F401


class DeadlyFiles(Files):
    """Kills this process when it is about to write a certain file."""

    deadly = "nothing"

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> Facts:
        if self.deadly in name:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(name, pieces)


def save_and_die(rank: int, world_size: int, where: str, deadly: str) -> None:
    """Save step 1, and step 2 up to a certain file."""
    files = DeadlyFiles(where)
    writer = make_writer(trained(), CheckpointStore(files), max_shard_bytes=80)
    writer.save(state_at(1))
    files.deadly = deadly
    writer.save(state_at(2))


def kill_in_mid_save(where: str, deadly: str) -> None:
    with pytest.raises(AssertionError, match=r"no answer from ranks \[0\]"):
        run_ranks(save_and_die, 1, where, deadly)


@pytest.mark.parametrize("deadly", ["optimizer-00002", "COMPLETE"])
def test_on_a_disk(tmp_path: Path, deadly: str) -> None:
    where = tmp_path / "killed"
    kill_in_mid_save(str(where), deadly)
    assert [path.name for path in where.glob(".step-00000002.*")]
    store = CheckpointStore(where)
    found = store.newest(warn=pytest.fail)
    assert found is not None
    assert found.step == 1
    save(trained(), store, 2, keep=1)
    save(trained(), tmp_path / "alone", 2)
    assert contents(where) == contents(tmp_path / "alone")


@pytest.mark.parametrize("deadly", ["optimizer-00002", "COMPLETE"])
def test_in_an_object_store(url: str, tmp_path: Path, deadly: str) -> None:  # noqa: F811
    kill_in_mid_save(url, deadly)
    assert "step-00000002/model/model-00001-of-00003.safetensors" in names(url)
    assert "step-00000002/COMPLETE" not in names(url)
    store = CheckpointStore(url)
    warnings: list[str] = []
    found = store.newest(warn=warnings.append)
    assert found is not None
    assert found.step == 1
    assert "COMPLETE is missing" in warnings[0]
    save(trained(), store, 2, keep=1)
    save(trained(), tmp_path / "alone", 2)
    whole = contents(tmp_path / "alone")
    assert names(url) == sorted(whole)
    assert all(store.files.read(name) == content for name, content in whole.items())
