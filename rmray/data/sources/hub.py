"""Hugging Face datasets: saved ones (`save_to_disk`), and ones of the Hub or a folder laid out like it.

Called by `files` (to hash them) and `read` (for their rows). `datasets` is imported when first needed: it is slow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmray.errors import DataError

_SPEC = re.compile(r"^(?P<name>[^:@]+)(@(?P<config>[^:@]+))?(:(?P<split>[^:@]+))?$")


def is_saved(path: Path) -> bool:
    """True for a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def describe(source: str) -> tuple[str, str, str, int]:
    """(source with its split, format, sha256 of the content, bytes). Raises DataError where it cannot be loaded."""
    dataset, source = _load(source)
    digest, num_bytes = hashlib.sha256(), 0
    files = [Path(f["filename"]) for f in dataset.cache_files]
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
                num_bytes += len(chunk)
    # Where rows are selected, the files hold more than the dataset does; the fingerprint names the selection.
    if not files or dataset._indices is not None or len(dataset) != _rows_in(files):
        digest.update(str(dataset._fingerprint).encode())
    if not len(dataset):
        raise DataError("the dataset is empty", where=source)
    return source, "dataset", digest.hexdigest(), num_bytes


def read_dataset(source: str) -> Iterator[dict[str, Any]]:
    """Rows in order. source: as `describe` returned it."""
    dataset, _ = _load(source)
    yield from dataset


def _rows_in(files: list[Path]) -> int:
    import pyarrow as pa

    total = 0
    for path in files:
        with pa.memory_map(str(path)) as file:
            total += sum(batch.num_rows for batch in pa.ipc.open_stream(file))
    return total


def _load(source: str) -> tuple[Any, str]:
    import datasets

    name, config, split = _parse(source)
    path = Path(name).expanduser()
    try:
        if path.is_dir() and is_saved(path):
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.is_dir() else name, config)
    except Exception as error:  # datasets raises whatever its many loaders raise
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise DataError(
            "no such file, saved dataset or dataset of the Hub",
            where=source,
            why=f"{type(error).__name__}: {first_line}",
            next_step="check the name; a dataset of the Hub needs a connection, or must be in the local cache",
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        if split is not None:
            raise DataError(f"the dataset has no splits, so no `:{split}`", where=source)
        return loaded, _absolute(name, config, None)
    if split is None and len(loaded) == 1:
        split = next(iter(loaded))
    if split not in loaded:
        raise DataError(
            "the dataset has several splits: name one" if split is None else f"the dataset has no split `{split}`",
            where=source,
            why=f"it has: {', '.join(map(str, loaded))}",
            next_step=f"write `{name}:{next(iter(loaded))}`",
        )
    return loaded[split], _absolute(name, config, str(split))


def _parse(source: str) -> tuple[str, str | None, str | None]:
    if Path(source).expanduser().exists():
        return source, None, None
    match = _SPEC.match(source)
    if match is None:
        raise DataError("no such file, and no name of a dataset", where=source)
    return match["name"], match["config"], match["split"]


def _absolute(name: str, config: str | None, split: str | None) -> str:
    """Workers run in another folder: a local path is made absolute."""
    path = Path(name).expanduser()
    base = str(path.resolve()) if path.is_dir() else name
    return base + (f"@{config}" if config else "") + (f":{split}" if split else "")
