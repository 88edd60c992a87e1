"""Packed, prefix-shared attention: one function known to transformers, no mask of T x T. Called by `backbone`.

A completion attends to its prompt and to itself. Each group takes two calls of scaled_dot_product_attention a layer:
its prefix on itself, and its K completions, side by side, on prefix + completion. Both are exact.

Legend: T tokens of the flat batch, K completions of a group, P tokens of its prefix, R tokens of its longest
completion, H heads (Hkv of keys and values), D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rmray.data.batch import Segment
from rmray.errors import RmrayError

PACKED_ATTENTION = "rmray_packed"
"""Name of the attention function in transformers' AttentionInterface."""
CALL = "rmray_call"
"""Keyword argument of a base model's forward that carries a PackedCall or a PlainCall down to its attention layers."""


class NotPackableError(RmrayError):
    """The packed forward cannot be exact here; the caller takes the padded one."""


@dataclass(frozen=True, slots=True)
class GroupCall:
    """One group's part of a layer's attention.

    start, prefix_len (P), num_tokens: where prefix and completions lie in the flat batch.
    num_suffixes: K. suffix_len: R.
    padded_KR: for each place of the K x R block the token within the completions' tokens that fills it, and
    real_N: the places that are real tokens; both None where all completions are R long.
    mask: [R, P + R] bool, bottom-right causal; None where `is_causal` or no mask says the same.
    """

    start: int
    prefix_len: int
    num_tokens: int
    num_suffixes: int
    suffix_len: int
    padded_KR: torch.Tensor | None
    real_N: torch.Tensor | None
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class PackedCall:
    """A flat batch's attention: its groups in order; `longest_path` in tokens."""

    groups: tuple[GroupCall, ...]
    num_tokens: int
    longest_path: int


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A padded batch's attention: transformers' own function of this name, with the mask it made itself."""

    attention: str


def longest_path(segments: Sequence[Segment]) -> int:
    """Length in tokens of the longest prompt + completion; 0 for none."""
    return max((s.prefix_len + length for s in segments for _, length in s.suffixes), default=0)


def plan_attention(segments: Sequence[Segment], device: torch.device | str) -> PackedCall:
    """Make the index tensors and masks that every layer uses, once a batch.

    Raises ValueError where the segments do not lie one after the other from token 0 on.
    """
    masks: dict[tuple[int, int], torch.Tensor] = {}
    groups = []
    end = 0
    for segment in segments:
        start = end
        end += segment.prefix_len
        if segment.prefix_start != start or not segment.suffixes:
            raise ValueError(f"the segment at token {segment.prefix_start} does not follow on token {start}")
        for suffix_start, length in segment.suffixes:
            if suffix_start != end or length < 1:
                raise ValueError(f"the completion at token {suffix_start} does not follow on token {end}")
            end += length
        lengths = [length for _, length in segment.suffixes]
        longest = max(lengths)
        shape = (longest, segment.prefix_len + longest)
        if segment.prefix_len and longest > 1 and shape not in masks:
            masks[shape] = torch.ones(shape, dtype=torch.bool, device=device).tril(segment.prefix_len)
        padded_KR = real_N = None
        if any(length != longest for length in lengths):
            padded_KR, real_N = (t.to(device) for t in _pad_indices(lengths))
        groups.append(
            GroupCall(
                start,
                segment.prefix_len,
                end - start,
                len(lengths),
                longest,
                padded_KR,
                real_N,
                masks.get(shape) if segment.prefix_len else None,
            )
        )
    return PackedCall(tuple(groups), end, longest_path(segments))


def _pad_indices(lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[K * R] token for each place, [sum of lengths] place for each token. A filler place repeats its completion's
    first token: it stands right of all real ones, so that no real query sees it, and its own output is dropped."""
    lengths_K = torch.tensor(lengths)
    starts_K = lengths_K.cumsum(0) - lengths_K
    offsets_R = torch.arange(int(lengths_K.max()))
    real_KR = offsets_R < lengths_K[:, None]
    padded_KR = torch.where(real_KR, starts_K[:, None] + offsets_R, starts_K[:, None])
    return padded_KR.flatten(), real_KR.flatten().nonzero().squeeze(1)


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
    outputs = [_attend(group, query[0], key[0], value[0], scaling) for group in call.groups]
    # contiguous: some layers take a view of it
    return torch.cat(outputs, dim=1).transpose(0, 1)[None].contiguous(), None


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


def _attend(
    group: GroupCall, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """One group: query [H, T, D], key and value [Hkv, T, D] -> [H, group's tokens, D]."""
    middle, end = group.start + group.prefix_len, group.start + group.num_tokens
    # enable_gqa pairs query head h with key head h // (H / Hkv), as repeating each key head in place does.
    options: dict[str, Any] = {"scale": scaling, "enable_gqa": query.shape[0] != key.shape[0]}
    q, k, v = (_side_by_side(group, x[:, middle:end]) for x in (query, key, value))
    if not group.prefix_len:
        return _in_a_row(group, scaled_dot_product_attention(q, k, v, is_causal=group.suffix_len > 1, **options))
    prefix_q, prefix_k, prefix_v = (x[None, :, group.start : middle] for x in (query, key, value))
    of_prefix = scaled_dot_product_attention(prefix_q, prefix_k, prefix_v, is_causal=True, **options)[0]
    k = torch.cat([prefix_k.expand(group.num_suffixes, -1, -1, -1), k], dim=2)
    v = torch.cat([prefix_v.expand(group.num_suffixes, -1, -1, -1), v], dim=2)
    of_suffixes = scaled_dot_product_attention(q, k, v, attn_mask=group.mask, **options)
    return torch.cat([of_prefix, _in_a_row(group, of_suffixes)], dim=1)


def _side_by_side(group: GroupCall, x: torch.Tensor) -> torch.Tensor:
    """[H, completions' tokens, D] -> [K, H, R, D]."""
    if group.padded_KR is not None:
        x = x.index_select(1, group.padded_KR)
    return x.reshape(x.shape[0], group.num_suffixes, group.suffix_len, -1).transpose(0, 1)


def _in_a_row(group: GroupCall, x: torch.Tensor) -> torch.Tensor:
    """[K, H, R, D] -> [H, completions' tokens, D]."""
    x = x.transpose(0, 1).reshape(x.shape[1], group.num_suffixes * group.suffix_len, -1)
    return x if group.real_N is None else x.index_select(1, group.real_N)


# Deliberately no mask function of the same name: transformers then makes no mask and looks for no packed sequences.
AttentionInterface.register(PACKED_ATTENTION, packed_attention)
