"""A tree of files on a disk or in an object store; knows nothing of checkpoints. Used by `store` and the writer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from rmray.errors import ConfigError, RunError
from rmray.training.checkpoint.layout import Facts

READ_BYTES = 8 * 2**20
WITHOUT_FOLDERS = ("s3", "gcs", "abfs")  # a file's name is a key there, and a folder's nothing

StorageFault = (OSError, pa.ArrowException)
"""What the methods of `Files` raise where the storage fails; FileNotFoundError is one of them."""


class Files:
    """Files by their names under a root, with `/` between the parts.

    where: the root as a person may read it, without credentials. local: on a disk of this machine, or mounted like one.
    """

    def __init__(self, where: str | Path) -> None:
        """where: a path, or the URL of any pyarrow file system. Raises ConfigError for a URL that pyarrow cannot read,
        RunError where it names a storage that cannot be reached."""
        self.where = _printable(str(where))
        self._filesystem, root = _open(where, self.where)
        self._root = root.rstrip("/") or "/"
        self.local = isinstance(self._filesystem, LocalFileSystem)

    def path(self, name: str) -> Path:
        """A file or folder of a local root."""
        if not self.local:
            raise ValueError(f"{self.where} is not on a disk")
        return Path(self._full(name))

    def folders(self) -> list[str]:
        """Names of the folders right under the root; none where there is no root."""
        infos = self._filesystem.get_file_info(FileSelector(self._root, allow_not_found=True))
        return [info.base_name for info in infos if info.type == FileType.Directory]

    def names(self, folder: str) -> dict[str, int]:
        """Files anywhere under a folder, by their names in it, with their bytes; none where there is no such folder."""
        selector = FileSelector(self._full(folder), recursive=True, allow_not_found=True)
        infos = [info for info in self._filesystem.get_file_info(selector) if info.type == FileType.File]
        return {str(PurePosixPath(info.path).relative_to(self._full(folder))): info.size for info in infos}

    def exist(self, names: list[str]) -> list[bool]:
        infos = self._filesystem.get_file_info([self._full(name) for name in names]) if names else []
        return [info.type == FileType.File for info in infos]

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        info = self._filesystem.get_file_info(self._full(name))
        return info.size if info.type == FileType.File else None

    def read(self, name: str) -> bytes:
        return b"".join(self._pieces(name))

    def facts(self, name: str, copy_to: Path | None = None) -> Facts:
        """Read a file through for its size and hash. copy_to: where its bytes are put on the way."""
        digest, size = hashlib.sha256(), 0
        copy = copy_to.open("wb") if copy_to else None
        try:
            for piece in self._pieces(name):
                digest.update(piece)
                size += len(piece)
                if copy:
                    copy.write(piece)
        finally:
            if copy:
                copy.close()
        return Facts(size, digest.hexdigest())

    def _pieces(self, name: str) -> Iterator[bytes]:
        with self._filesystem.open_input_stream(self._full(name), compression=None) as stream:
            while piece := stream.read(READ_BYTES):
                yield piece

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> Facts:
        """Write a file and the folders it lies in; it is on the disk when this returns. What the file then holds."""
        full = self._full(name)
        if self._filesystem.type_name not in WITHOUT_FOLDERS:
            self._filesystem.create_dir(str(PurePosixPath(full).parent), recursive=True)
        digest, size = hashlib.sha256(), 0
        with self._filesystem.open_output_stream(full, compression=None) as stream:
            for piece in pieces:
                digest.update(piece)
                stream.write(piece)
                size += len(piece)
        self.sync(name)
        return Facts(size, digest.hexdigest())

    def sync(self, name: str) -> None:
        """Have a disk keep a file, or a folder's names, before anything that relies on them is written."""
        if self.local:
            handle = os.open(self._full(name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._filesystem.delete_file(self._full(name))

    def delete_folder(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._filesystem.delete_dir(self._full(name))

    def rename(self, name: str, new: str) -> None:
        """On a disk alone: elsewhere a folder cannot be renamed at once."""
        self.path(name).rename(self.path(new))

    def _full(self, name: str) -> str:
        return str(PurePosixPath(self._root, name))


def _open(where: str | Path, printable: str) -> tuple[FileSystem, str]:
    if "://" not in str(where):
        return LocalFileSystem(), str(Path(where).expanduser().absolute())
    try:
        filesystem, root = FileSystem.from_uri(str(where))
    except OSError as error:
        raise unreachable(printable, error) from error
    except pa.ArrowException as error:
        raise ConfigError(
            "this URL of a storage cannot be used",
            where=printable,
            why=str(error).replace(str(where), printable),
            next_step="give a directory, or a URL that pyarrow reads, such as s3://bucket/path?region=eu-west-1",
        ) from None  # its text may show credentials
    return filesystem, root


def unreachable(where: str, error: BaseException) -> RunError:
    return RunError(
        "the storage of checkpoints cannot be reached",
        where=where,
        why=f"{type(error).__name__}: {error}",
        next_step="look at checkpoint.storage, the credentials and the network; then start again with --resume",
    )


def _printable(where: str) -> str:
    """A URL without user, password and query, which may hold secrets."""
    if "://" not in where:
        return where
    url = urlsplit(where)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
