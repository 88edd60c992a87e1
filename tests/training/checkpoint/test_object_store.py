"""Checkpoints in an object store, over its own protocol on loopback: no rename, no folders, a marker written last."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pyarrow.fs import FileSelector, FileSystem
from safetensors.torch import load_file

from rmray.errors import BundleError, RmrayError, RunError, TrainingError
from rmray.training.checkpoint import CheckpointStore
from rmray.training.checkpoint.files import Files
from tests.training.checkpoint.helpers import WAIT_S, FailingFiles, GatedFiles, make_writer, save, state_at, trained


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The address of an S3 server in this process, with credentials in the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it tells of each request
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = dict(os.environ)
    os.environ.update(credentials)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def url(endpoint: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL in a bucket of the test's own. Copies of its checkpoints are cached below `tmp_path`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    bucket = f"bucket{abs(hash(request.node.name))}"
    options = f"endpoint_override={endpoint}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    filesystem, _ = FileSystem.from_uri(f"s3://{bucket}/?{options}")
    filesystem.create_dir(bucket)
    return f"s3://{bucket}/runs/first?{options}"


def names(url: str) -> list[str]:
    """All objects under a URL."""
    filesystem, root = FileSystem.from_uri(url)
    infos = filesystem.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{root}/") for info in infos if info.is_file)


def put(url: str, name: str, content: bytes) -> None:
    filesystem, root = FileSystem.from_uri(url)
    with filesystem.open_output_stream(f"{root}/{name}") as stream:
        stream.write(content)


def get(url: str, name: str) -> bytes:
    return Files(url).read(name)


WHOLE = [
    "step-00000005/COMPLETE",
    "step-00000005/manifest.json",
    "step-00000005/model/config.json",
    "step-00000005/model/model.safetensors",
    "step-00000005/optimizer-00001-of-00001.safetensors",
    "step-00000005/state.json",
]


def test_a_checkpoint_gives_back_what_was_saved(url: str) -> None:
    engine = trained()
    store = CheckpointStore(url)
    assert store.newest() is None
    save(engine, store, 5)
    assert names(url) == WHOLE
    found = CheckpointStore(url).newest()
    assert found is not None
    assert found.state == state_at(5)
    assert found.where.startswith("s3://")
    assert found.where.endswith("/runs/first/step-00000005")
    assert "endpoint" not in found.where
    weights = load_file(found.model_dir / "model.safetensors")
    assert (found.model_dir / "config.json").read_text() == "{}"
    assert all(torch.equal(weights[name], tensor) for name, tensor in engine.weights())
    fresh = trained(0)
    found.load_moments(fresh)
    assert {n: t.tolist() for n, t in fresh.moments()} == {n: t.tolist() for n, t in engine.moments()}


def test_the_same_bytes_as_on_a_disk(url: str, tmp_path: Path) -> None:
    engine = trained()
    save(engine, url, 5, background=True)
    save(engine, tmp_path / "disk", 5)
    assert all(get(url, name) == (tmp_path / "disk" / name).read_bytes() for name in WHOLE)


def test_a_copy_is_made_once_checked_and_bounded(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make_writer(trained(), url)
    for step in (1, 2):
        writer.save(state_at(step))
    writer.finish()
    store = CheckpointStore(url)
    first = store.open(1).model_dir
    assert first.is_relative_to(tmp_path / f"rmray-checkpoints-{os.getuid()}")
    assert stat.S_IMODE((tmp_path / f"rmray-checkpoints-{os.getuid()}").stat().st_mode) == 0o700
    second = store.open(2)
    directory = second.model_dir
    assert not first.exists()
    reads: list[str] = []
    facts = Files.facts
    monkeypatch.setattr(
        Files, "facts", lambda self, name, copy_to=None: reads.append(name) or facts(self, name, copy_to)
    )
    assert CheckpointStore(url).open(2, verify=False).model_dir == directory
    assert reads == []
    (directory / "model.safetensors").write_bytes(b"cut")
    assert second.model_dir == directory
    assert load_file(directory / "model.safetensors")
    assert len(reads) == 2


def test_a_file_that_is_spoilt_on_the_way_is_not_loaded(url: str) -> None:
    save(trained(), url, 5)
    found = CheckpointStore(url).open(5)
    content = bytearray(get(url, WHOLE[3]))
    content[-1] ^= 1
    put(url, WHOLE[3], bytes(content))
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        _ = found.model_dir


def test_a_cache_that_is_anothers_is_refused(url: str, tmp_path: Path) -> None:
    save(trained(), url, 5)
    (tmp_path / f"rmray-checkpoints-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"rmray-checkpoints-{os.getuid()}").chmod(0o777)
    with pytest.raises(RunError, match="belongs to another user"):
        _ = CheckpointStore(url).open(5).model_dir


def flip(url: str, name: str) -> None:
    put(url, name, get(url, name)[:-1] + b"\x7f")


DAMAGES: dict[str, tuple[str, Callable[[str, str], None]]] = {
    "flipped byte": ("model/model.safetensors", flip),
    "cut short": ("optimizer-00001-of-00001.safetensors", lambda url, name: put(url, name, get(url, name)[:-5])),
    "missing shard": ("optimizer-00001-of-00001.safetensors", lambda url, name: Files(url).delete(name)),
    "missing marker": ("COMPLETE", lambda url, name: Files(url).delete(name)),
    "missing manifest": ("manifest.json", lambda url, name: Files(url).delete(name)),
    "broken manifest": ("manifest.json", lambda url, name: put(url, name, b"{")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_one_before_is_used(url: str, damage: str) -> None:
    writer = make_writer(trained(), url)
    for step in (1, 2):
        writer.save(state_at(step))
    writer.finish()
    name, spoil = DAMAGES[damage]
    spoil(url, f"step-00000002/{name}")
    warnings: list[str] = []
    found = CheckpointStore(url).newest(warn=warnings.append)
    assert found is not None
    assert found.step == 1
    assert len(warnings) == 1
    assert name in warnings[0]


def test_the_newest_and_the_best_stay(url: str) -> None:
    writer = make_writer(trained(), url, keep=1)
    for step, accuracy in ((1, 0.6), (2, 0.8), (3, 0.7), (4, None)):
        writer.save(state_at(step, accuracy=accuracy))
    writer.finish()
    assert {name.partition("/")[0] for name in names(url)} == {"step-00000002", "step-00000004"}
    best = CheckpointStore(url).best()
    assert best is not None
    assert best.step == 2


def test_files_of_a_dead_attempt_never_become_part_of_a_checkpoint(url: str) -> None:
    """It was of another shard plan, at the step that is saved again and at one that is not; both were never whole."""
    for step in (5, 7):
        put(url, f"step-{step:08d}/model/model-00001-of-00002.safetensors", b"stale")
        put(url, f"step-{step:08d}/optimizer-00002-of-00002.safetensors", b"stale")
    put(url, ".step-00000005.dead/rank-00001.json", b'{"files": {}, "fault": "dead"}')
    store = CheckpointStore(url)
    assert list(store.list()) == []
    assert store.newest() is None
    save(trained(), store, 5)
    assert names(url) == WHOLE
    assert store.open(5).step == 5


def test_a_whole_one_that_is_saved_anew_is_no_checkpoint_meanwhile(url: str) -> None:
    """The run went on from an earlier one, because this was damaged: its marker must not stand over other files."""
    store = CheckpointStore(url)
    save(trained(), store, 5)
    files = GatedFiles(url, "optimizer")
    writer = make_writer(trained(1), CheckpointStore(files), background=True)
    writer.save(state_at(5, updates=1))
    assert files.reached.wait(WAIT_S)
    assert list(store.list()) == []
    files.gate.set()
    writer.finish()
    assert store.open(5).state.updates == 1


def test_an_attempt_that_fails_leaves_no_files(url: str) -> None:
    with pytest.raises(TrainingError):
        save(trained(), CheckpointStore(FailingFiles(url, "optimizer")), 5)
    assert names(url) == []


def test_a_failed_save_harms_nothing(url: str) -> None:
    files, failed = FailingFiles(url), []
    writer = make_writer(trained(), CheckpointStore(files), keep=1, on_failed=lambda step, message: failed.append(step))
    writer.save(state_at(5))
    files.fails = "manifest"
    writer.save(state_at(6))
    assert names(url) == WHOLE
    # The same step once more: its files are overwritten by the same bytes, so that it stays what it was.
    files.fails = "optimizer"
    writer.save(state_at(5, finished=True))
    assert failed == [6, 5]
    assert not CheckpointStore(url).open(5).state.finished
    files.fails = None
    writer.save(state_at(5, finished=True))
    writer.finish()
    assert CheckpointStore(url).open(5).state.finished
    assert names(url) == WHOLE


def test_a_storage_that_cannot_be_reached_is_one_clear_error() -> None:
    store = CheckpointStore("s3://user:secret@bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    with ThreadPoolExecutor() as pool:  # each is tried again for some seconds
        for asked in [pool.submit(ask) for ask in (store.newest, store.check_writable)]:
            with pytest.raises(RunError) as raised:
                asked.result()
            assert "s3://bucket/x" in str(raised.value)
            assert "secret" not in str(raised.value)


def test_a_run_goes_on_while_its_storage_is_away(url: str, endpoint: str) -> None:
    away = url.replace(endpoint, "127.0.0.1:9")
    failed: list[int] = []
    writer = make_writer(trained(), away, on_failed=lambda step, message: failed.append(step))
    writer.save(state_at(1))
    assert failed == [1]
    with pytest.raises(RmrayError, match="could not be written"):
        writer.finish()
