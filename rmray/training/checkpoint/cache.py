"""Copies of a remote checkpoint's files on this node, made once for all of its ranks. Used by `store`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rmray.errors import BundleError, RunError
from rmray.training.checkpoint.files import Files
from rmray.training.checkpoint.layout import Facts


def fetch(files: Files, folder: str, facts: Mapping[str, Facts], *, version: str, group: str) -> Path:
    """A local directory with the files of `folder` that `facts` names, under the same names.

    version: tells this checkpoint from any other that ever had its name. group: of files that are fetched together. The
    first rank of a node to come copies while the others wait; copies of the run's other checkpoints are deleted then.
    Raises BundleError where a file is not as told, and what `files` raises.
    """
    run = _own_folder(Path(tempfile.gettempdir()) / f"rmray-checkpoints-{os.getuid()}") / _short_hash(files.where)
    run.mkdir(exist_ok=True)
    copies = run / f"{folder}-{version[:16]}"
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes with the process that holds it
        if not _is_whole(copies / group, facts):
            for other in run.iterdir():
                if other.is_dir() and other != copies:
                    shutil.rmtree(other)
            _copy(files, folder, facts, copies / group)
    return copies / group


def _copy(files: Files, folder: str, facts: Mapping[str, Facts], copy: Path) -> None:
    """Under another name, which is given up once every file has arrived as its facts say."""
    unfinished = copy.with_name(f"{copy.name}.unfinished")
    for left in (unfinished, copy):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, want in facts.items():
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if files.facts(f"{folder}/{name}", copy_to=path) != want:
            shutil.rmtree(unfinished)
            raise BundleError(
                "a file of the checkpoint is damaged, or changed while it was copied",
                where=f"{files.where}/{folder}/{name}",
                why="it is not what the manifest says",
                next_step="start again with --resume: an older checkpoint is used where this one is damaged",
            )
    unfinished.rename(copy)


def _is_whole(copy: Path, facts: Mapping[str, Facts]) -> bool:
    """By size: a copy got its name after its hashes were looked at."""
    paths = {copy / name: want for name, want in facts.items()}
    return copy.is_dir() and all(path.is_file() and path.stat().st_size == want.bytes for path, want in paths.items())


def _own_folder(path: Path) -> Path:
    """A folder of this user alone: the temporary directory is everyone's, and models are loaded from here."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise RunError(
            "the folder for copies of checkpoints belongs to another user, or others may write to it",
            where=str(path),
            next_step="remove it, or set TMPDIR to a directory of your own",
        )
    return path


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
