"""Look at safetensors files before anything trusts them: shards and headers. Used by load, export and import.

Only safetensors is ever read: a pickle runs code when it is loaded.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmray.errors import BundleError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
ITEM_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
}


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor of the files: where it is, its safetensors dtype (`F32`, `BF16`, ...) and shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def weight_files(directory: Path) -> list[str]:
    """Names of the safetensors files of a model directory, its index included where it has shards.

    Raises BundleError: weights in pickles alone, none at all, or shards missing (all named).
    """
    if (directory / SINGLE).is_file():
        return [SINGLE]
    if (directory / INDEX).is_file():
        shards = sorted(set(_weight_map(directory).values()))
        missing = [s for s in shards if not (directory / s).is_file()]
        if missing:
            raise BundleError(
                f"the weights are not complete: {', '.join(missing)} missing, {len(shards)} shard(s) in all",
                where=str(directory),
                next_step="copy or download the model again",
            )
        return [INDEX, *shards]
    pickles = sorted(p.name for pattern in PICKLES for p in directory.glob(pattern))
    if pickles:
        raise BundleError(
            f"the weights are pickles only ({', '.join(pickles[:3])}), which can run code when they are loaded",
            where=str(directory),
            why="rmray reads safetensors only",
            next_step="if you trust their author, convert them: AutoModelForSequenceClassification.from_pretrained("
            "DIR, use_safetensors=False).save_pretrained(NEW_DIR)",
        )
    raise BundleError("there are no weights", where=str(directory), why=f"neither {SINGLE} nor {INDEX} is there")


def read_headers(directory: Path) -> dict[str, TensorHeader]:
    """Tensor name -> header, over all weight files. Raises BundleError where a file is not sound, naming it."""
    names = weight_files(directory)
    headers: dict[str, TensorHeader] = {}
    for name in names:
        if name != INDEX:
            headers |= _read_header(directory / name)
    if INDEX in names:
        lost = [tensor for tensor, file in _weight_map(directory).items() if headers.get(tensor, None) is None]
        if lost:
            raise BundleError(
                f"{len(lost)} tensor(s) of the index are in no shard, {lost[0]} first",
                where=str(directory / INDEX),
                next_step="copy or download the model again",
            )
    return headers


def _weight_map(directory: Path) -> dict[str, str]:
    path = directory / INDEX
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not all(Path(file).name == file for file in weight_map.values()):
            raise ValueError("a shard lies outside the model's directory")
        return dict(weight_map)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unsound(path, str(error)) from error


def _unsound(path: Path, why: str) -> BundleError:
    return BundleError(
        "not a sound safetensors file" if path.suffix == ".safetensors" else "not a sound index of shards",
        where=str(path),
        why=why,
        next_step="copy or download the model again",
    )


def _read_header(path: Path) -> dict[str, TensorHeader]:
    """The header of one file: its length is checked before it is read, and its offsets before they are used."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _unsound(path, f"its header claims {length} bytes, and the file has {size}")
        try:
            raw = json.loads(file.read(length))
            raw.pop("__metadata__", None)
            headers = {name: _check_tensor(path.name, entry, size - 8 - length) for name, entry in raw.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _unsound(path, f"its header does not parse: {type(error).__name__}: {error}") from error
    end = max((entry["data_offsets"][1] for entry in raw.values()), default=0)
    if end != size - 8 - length:
        raise _unsound(path, f"its header speaks of {end} bytes of data, and the file has {size - 8 - length}")
    return headers


def _check_tensor(file: str, entry: dict[str, Any], num_bytes: int) -> TensorHeader:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)) or not begin <= end <= num_bytes:
        raise ValueError(f"shape {shape} with offsets {begin}, {end}")
    if (end - begin) * 8 != math.prod(shape) * ITEM_BITS[entry["dtype"]]:
        raise ValueError(f"shape {shape} of {entry['dtype']} in {end - begin} bytes")
    return TensorHeader(file, entry["dtype"], tuple(shape))


def main_dtype(headers: dict[str, TensorHeader]) -> str:
    """The dtype that most weights have, in torch's words (`float32`, `bfloat16`)."""
    sizes: dict[str, int] = {}
    for header in headers.values():
        sizes[header.dtype] = sizes.get(header.dtype, 0) + math.prod(header.shape)
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    most = max(sizes, key=lambda d: sizes[d])
    return names.get(most, most)
