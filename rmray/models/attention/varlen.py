"""The kernel of GPUs in half precision: torch's variable-length FlashAttention. Called by `interface`.

Every prefix and every completion is a sequence of queries; the keys of a completion are its prefix's and its own,
gathered. Where a sequence has fewer queries than keys, the causal mask is aligned to the bottom right, which is what a
completion sees (`torch.nn.attention.varlen`). Legend: T tokens, H query heads, Hkv of keys and values, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from rmray.models.attention.plan import Paths

MAX_WIDTH = 256
"""Of a head, FlashAttention 2."""
CAUSAL = (-1, 0)
"""No bound to the left, nothing to the right."""


def available(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether torch's kernel takes these: a GPU of compute capability 8.0 or more, half precision, one width of
    full 16 bytes."""
    return (
        query.is_cuda
        and torch.version.hip is None
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] == value.shape[-1] <= MAX_WIDTH
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and _has_kernel()
    )


@cache
def _has_kernel() -> bool:
    """torch's function took windows, a scale and grouped heads only after its first releases."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "scale", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def varlen_attention(
    query_THD: torch.Tensor, key_THD: torch.Tensor, value_THD: torch.Tensor, paths: Paths, scale: float
) -> torch.Tensor:
    """query [T, H, D], key and value [T, Hkv, D] -> [T, H, D]."""
    from torch.nn.attention.varlen import varlen_attn

    if paths.keys is not None:
        key_THD, value_THD = key_THD.index_select(0, paths.keys), value_THD.index_select(0, paths.keys)
    attend: Callable[..., Any] = varlen_attn
    output_THD: torch.Tensor = attend(
        query_THD,
        key_THD,
        value_THD,
        paths.query_bounds,
        paths.key_bounds,
        paths.max_queries,
        paths.max_keys,
        scale=scale,
        window_size=CAUSAL,
        enable_gqa=query_THD.shape[1] != key_THD.shape[1],
    )
    return output_THD
