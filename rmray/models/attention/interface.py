"""The attention function that transformers calls: checks that it can be exact, then hands over to a kernel.

Legend: T tokens of the flat batch, H heads (Hkv of keys and values), D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rmray.errors import RmrayError
from rmray.models.attention import varlen
from rmray.models.attention.flex import flex_attention
from rmray.models.attention.plan import PackedCall
from rmray.models.attention.split import split_attention

PACKED_ATTENTION = "rmray_packed"
"""Name of the attention function in transformers' AttentionInterface."""
CALL = "rmray_call"
"""Keyword argument of a base model's forward that carries a PackedCall or a PlainCall down to its attention layers."""


class NotPackableError(RmrayError):
    """The packed forward cannot be exact here; the caller takes the padded one."""


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A padded batch's attention: transformers' own function of this name, with the mask it made itself."""

    attention: str


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: query [1, H, T, D], key and value [1, Hkv, T, D] -> [1, T, H, D].

    A PlainCall is handed to transformers' own function (a padded forward is recomputed under this name by gradient
    checkpointing). Raises NotPackableError for whatever this function does not compute.
    """
    call = kwargs.pop(CALL, None)
    if isinstance(call, PlainCall):
        plain = ALL_ATTENTION_FUNCTIONS[call.attention]
        output: tuple[torch.Tensor, None] = plain(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    if not isinstance(call, PackedCall):
        raise NotPackableError(
            "the model was called without its batch's segments",
            where=type(module).__name__,
            next_step="call it through RewardBackbone, or inside RewardBackbone.plain_attention()",
        )
    reason = refusal(call, module, query, key, attention_mask, dropout, kwargs)
    if reason:
        raise NotPackableError(reason, where=type(module).__name__)
    query, key, value = _of_one_dtype(query, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THD, key_THD, value_THD = (x[0].transpose(0, 1) for x in (query, key, value))
    if not query.is_cuda:
        output_THD = split_attention(query_THD, key_THD, value_THD, call.split, scale)
    elif varlen.available(query_THD, value_THD):
        output_THD = varlen.varlen_attention(query_THD, key_THD, value_THD, call.paths, scale)
    else:
        output_THD = flex_attention(query_THD, key_THD, value_THD, call.blocks, scale)
    # contiguous: some layers take a view of it
    return output_THD[None].contiguous(), None


def _of_one_dtype(*inputs: torch.Tensor) -> list[torch.Tensor]:
    """In autocast norms give float32 beside half-precision values; attention is one of the operations it lowers."""
    device = inputs[0].device.type
    if torch.is_autocast_enabled(device):
        return [x.to(torch.get_autocast_dtype(device)) for x in inputs]
    return list(inputs)


# What some layers pass along and attention itself does not read: positions are in the queries and keys already.
_NO_EFFECT = frozenset({"position_ids", "position_embeddings", "cache_position", "use_cache", "output_router_logits"})


def refusal(
    call: PackedCall,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float,
    kwargs: dict[str, Any],
) -> str:
    """Why this layer's attention is not the plain causal one that is computed here, or ""."""
    if attention_mask is not None:
        return "the model makes an attention mask of its own"
    if query.shape[0] != 1 or query.shape[2] != call.num_tokens or key.shape[2] != call.num_tokens:
        return f"attention got {tuple(query.shape)} queries for a flat batch of {call.num_tokens} tokens"
    if key.shape[0] != 1 or query.shape[1] % key.shape[1]:
        return f"attention got {tuple(key.shape)} keys for {tuple(query.shape)} queries"
    if dropout:
        return f"attention dropout ({dropout}) is not computed over shared prefixes"
    if not getattr(module, "is_causal", True) or kwargs.get("is_causal") is False:
        return "attention is not causal"
    window = kwargs.get("sliding_window")
    if window is not None and call.longest_path > window:
        return f"a path of {call.longest_path} tokens exceeds the sliding window of {window}"
    known = {"sliding_window", "is_causal", *_NO_EFFECT}
    unknown = sorted(k for k, v in kwargs.items() if k not in known and v is not None and v is not False)
    return f"attention takes the unknown argument(s) {', '.join(unknown)}" if unknown else ""


# Deliberately no mask function of the same name: transformers then makes no mask and looks for no packed sequences.
AttentionInterface.register(PACKED_ATTENTION, packed_attention)
