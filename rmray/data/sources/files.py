"""Find what a source names: files on disk or behind a URL, a saved dataset, a dataset of the Hub; hash its content.

Called by `prepare` (on the driver) and `read_records`. FORMATS says which file name is read how.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from rmray.data.sources import hub
from rmray.errors import DataError

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
}
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file or dataset to read. digest: sha256 of its bytes (hex). num_bytes: its size, where it is known."""

    path: str
    format: str
    digest: str
    num_bytes: int

    def row_id(self, line: int) -> str:
        """The stable name of a row: the same wherever the file lies."""
        return f"{self.digest[:16]}:{line}"


def find_files(source: str) -> list[InputFile]:
    """All files that `source` names, in the order of their names.

    source: a file (JSONL, JSON, Parquet, CSV; JSON kinds and CSV also gzipped), a glob, a folder of such files, a
    dataset saved with `save_to_disk`, a URL of any pyarrow or fsspec file system, or a dataset of the Hub
    (`owner/name`, `owner/name@config`, each with `:split`). Raises DataError.
    """
    if not source.strip():
        raise DataError("a data file without a name", next_step="name a file, a folder or a dataset")
    if "://" in source:
        return [_file(source)]
    path = Path(source).expanduser()
    if path.is_file():
        return [_file(str(path.resolve()))]
    if path.is_dir() and not hub.is_saved(path):
        found = sorted(p for p in path.iterdir() if p.is_file() and format_of(p.name))
        if found:
            return [_file(str(p.resolve())) for p in found]
    if not path.exists() and any(c in source for c in "*?["):
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if found:
            return [_file(str(p.resolve())) for p in found]
    if not path.exists() and (format_of(path.name) or source.startswith(("/", ".", "~"))):
        bare, _, split = source.rpartition(":")
        if not (bare and split and Path(bare).expanduser().is_dir()):
            raise DataError(
                "no such file", where=source, next_step="check the path; paths are relative to where you run"
            )
    return [InputFile(*hub.describe(source))]


def _file(path: str) -> InputFile:
    kind = format_of(path)
    if kind is None:
        raise DataError(
            "unknown kind of file", where=path, why=f"known: {', '.join(FORMATS)}, JSON kinds and CSV also with .gz"
        )
    digest, num_bytes = hashlib.sha256(), 0
    with open_bytes(path) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    if not num_bytes:
        raise DataError("the file is empty", where=path, next_step="make it again, or leave it out")
    return InputFile(path, kind, digest.hexdigest(), num_bytes)


def format_of(name: str) -> str | None:
    """How a file of this name is read, or None."""
    lower = name.lower().removesuffix(".gz")
    kind = next((kind for suffix, kind in FORMATS.items() if lower.endswith(suffix)), None)
    return None if kind == "parquet" and name.lower().endswith(".gz") else kind


def open_bytes(path: str) -> BinaryIO:
    """The raw bytes of a local path or URL, seekable. Raises DataError where it cannot be opened."""
    try:
        if "://" not in path:
            return open(path, "rb")
        return _open_url(path)
    except (OSError, ImportError, ValueError) as error:
        raise DataError("cannot open the file", where=path, why=f"{type(error).__name__}: {error}") from error


def _open_url(url: str) -> BinaryIO:
    import fsspec
    import pyarrow as pa
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid:  # not one of pyarrow's own file systems
        return cast(BinaryIO, fsspec.open(url, "rb").open())
    return io.BufferedReader(filesystem.open_input_file(path))


def open_plain(path: str) -> BinaryIO:
    """The bytes of a file, gunzipped where they are gzipped, whatever its name."""
    file = io.BufferedReader(open_bytes(path))  # type: ignore[type-var]
    if file.peek(2)[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return cast(BinaryIO, file)
