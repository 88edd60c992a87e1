"""A safetensors file as a stream of pieces, without a copy of the whole. Used by the writer's thread.

`safetensors.torch.save` gives the same bytes, but it holds the interpreter's lock while it copies all of them: seconds
for half a GiB, in which the training step that goes on meanwhile would stand still.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import torch

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Header and contents of a file of contiguous CPU tensors. Raises KeyError for a dtype that is not in `DTYPES`."""
    # Wide elements first, so that each tensor is aligned; then by name, as safetensors does.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        if tensors[name].numel():
            array: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
            yield memoryview(array)
