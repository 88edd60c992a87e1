"""Safetensors files are looked at before anything trusts them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rmray.errors import BundleError
from rmray.models.bundle.weights import INDEX, main_dtype, read_headers, weight_files


def write(directory: Path, name: str = "model.safetensors", **tensors: torch.Tensor) -> Path:
    directory.mkdir(exist_ok=True)
    save_file(tensors or {"w": torch.zeros(2, 3)}, directory / name, metadata={"format": "pt"})
    return directory / name


def raw_file(directory: Path, header: bytes, *, claimed: int | None = None, data: bytes = b"") -> None:
    directory.mkdir(exist_ok=True)
    length = len(header) if claimed is None else claimed
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", length) + header + data)


def test_headers_tell_file_dtype_and_shape(tmp_path: Path) -> None:
    write(tmp_path, a=torch.zeros(2, 3), b=torch.zeros(5, dtype=torch.bfloat16), c=torch.zeros(()))
    headers = read_headers(tmp_path)
    assert {k: (h.dtype, h.shape) for k, h in headers.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (5,)),
        "c": ("F32", ()),
    }
    assert main_dtype(headers) == "float32"


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    write(tmp_path, "model-00001-of-00003.safetensors")
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict(zip("xyz", shards, strict=True))}))
    with pytest.raises(BundleError) as caught:
        weight_files(tmp_path)
    assert shards[1] in str(caught.value)
    assert shards[2] in str(caught.value)
    assert shards[0] not in str(caught.value)


def test_index_that_names_a_tensor_no_shard_has(tmp_path: Path) -> None:
    write(tmp_path, "model-00001-of-00001.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"absent": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(BundleError, match="absent"):
        read_headers(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"weight_map": {"a": "../other.safetensors"}}', "[]", '{"weight_map": 3}'])
def test_unsound_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(BundleError, match="not a sound index"):
        weight_files(tmp_path)


def test_pickles_are_refused_with_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BundleError, match=r"pickles only \(pytorch_model.bin\)(.|\n)*save_pretrained"):
        weight_files(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no weights"):
        weight_files(tmp_path)


HUGE = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}
BEYOND = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
NEGATIVE = {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}
UNKNOWN = {"w": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize(
    ("header", "claimed", "data"),
    [
        (b"{}", 2**60, b""),
        (b"{}", 50, b""),
        (b"", 0, b""),
        (b"\xff\xfe not json", None, b""),
        (b"[1, 2]", None, b""),
        (b"[" * 100_000, None, b""),
        (json.dumps(HUGE).encode(), None, b"\0" * 4),
        (json.dumps(BEYOND).encode(), None, b"\0" * 8),
        (json.dumps(NEGATIVE).encode(), None, b"\0" * 4),
        (json.dumps(UNKNOWN).encode(), None, b"\0" * 4),
        (b'{"w": 1}', None, b""),
        (b"{}", None, b"\0" * 8),
    ],
)
def test_absurd_headers_are_clean_errors(tmp_path: Path, header: bytes, claimed: int | None, data: bytes) -> None:
    raw_file(tmp_path, header, claimed=claimed, data=data)
    with pytest.raises(BundleError, match=r"model.safetensors: not a sound safetensors file"):
        read_headers(tmp_path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="not a sound safetensors file"):
        read_headers(tmp_path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="not a sound safetensors file"):
        read_headers(tmp_path)
