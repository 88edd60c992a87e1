"""The kernel of GPUs where `varlen` does not apply (float32, other widths): FlexAttention. Called by `interface`.

The mask is a function of two tokens' sequences; only blocks in which some query sees some key are computed, and which
those are is found from the segments, without T x T anything. Legend: T tokens, H query heads, Hkv of keys and values, D
width of a head, B blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from rmray.models.attention.plan import BLOCK, Blocks


def flex_attention(
    query_THD: torch.Tensor, key_THD: torch.Tensor, value_THD: torch.Tensor, blocks: Blocks, scale: float
) -> torch.Tensor:
    """query [T, H, D], key and value [T, Hkv, D] (values of any width) -> [T, H, width of a value]."""
    inputs = (x.transpose(0, 1)[None] for x in (query_THD, key_THD, value_THD))
    attend = _compiled() if query_THD.is_cuda else _plain()
    output_1HTD: torch.Tensor = attend(
        *inputs, block_mask=block_mask(blocks), scale=scale, enable_gqa=query_THD.shape[1] != key_THD.shape[1]
    )
    return output_1HTD[0].transpose(0, 1)


def block_mask(blocks: Blocks) -> Any:
    """FlexAttention's form of `blocks`, made once a batch."""
    if blocks.made is None:
        from torch.nn.attention.flex_attention import BlockMask

        own_T, prefix_T = blocks.own_T, blocks.prefix_T

        def visible(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key <= query) & ((own_T[key] == own_T[query]) | (own_T[key] == prefix_T[query]))

        blocks.made = BlockMask.from_kv_blocks(
            blocks.num_keys_B[None, None],
            blocks.keys_BB[None, None],
            BLOCK_SIZE=BLOCK,
            mask_mod=visible,
            seq_lengths=(len(own_T), len(own_T)),
        )
    return blocks.made


@cache
def _compiled() -> Callable[..., Any]:
    """Uncompiled, FlexAttention builds all T x T weights."""
    compiled: Callable[..., Any] = torch.compile(_plain(), dynamic=True)
    return compiled


def _plain() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

    function: Callable[..., Any] = torch_flex_attention
    return function
