"""The CPU's kernel: attention in two parts, merged by their logsumexp. Called by `interface`.

Every sequence attends to itself (causal), and all completions of a group, as one block of queries, attend to their
prefix (no mask, no copy of the prefix). Where a query sees two disjoint sets of keys, softmax over both is the mean of
the two results weighted by the sums of their exponentials, which FlashAttention returns as a logsumexp (Dao et al.
2022; the split of a shared prefix is Hydragen's, Juravsky et al. 2024). Backward, each part is given the merged output
and logsumexp, and returns its exact share of the gradient, as in ring attention (Liu et al. 2023).

torch's flash kernel for CPUs is called by its own name: scaled_dot_product_attention keeps its logsumexp to itself.

Legend: T tokens, H query heads, Hkv heads of keys and values, D width of a head, N sequences of length L.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rmray.models.attention.plan import Alone, Cross, SideBySide, Split

_forward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def split_attention(
    query_THD: torch.Tensor, key_THD: torch.Tensor, value_THD: torch.Tensor, split: Split, scale: float
) -> torch.Tensor:
    """query [T, H, D], key and value [T, Hkv, D] (values of any width) -> [T, H, width of a value], dense."""
    width, value_width = query_THD.shape[-1], value_THD.shape[-1]
    if value_width != width:  # the kernel knows one width; zeros add nothing to a product
        widest = max(width, value_width)
        query_THD, key_THD = (nn.functional.pad(x, (0, widest - width)) for x in (query_THD, key_THD))
        value_THD = nn.functional.pad(value_THD, (0, widest - value_width))
    # The kernel reads neighbours within a head without asking for their distance.
    query_THD, key_THD, value_THD = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (query_THD, key_THD, value_THD)
    )
    attend: Any = _SplitAttention.apply
    output_THD: torch.Tensor = attend(query_THD, key_THD, value_THD, split, scale)
    return output_THD[..., :value_width] if value_width != width else output_THD


class _SplitAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, split: Split, scale: float
    ) -> torch.Tensor:
        output = query.new_empty(query.shape)
        # The kernel's logsumexp is float32 for half precision too.
        lse_TH = query.new_empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
        for run in split.runs:
            part, lse = _forward(*(_block(run, x) for x in (query, key, value)), 0.0, True, scale=scale)
            _write(run, output, part.transpose(1, 2))
            _write(run, lse_TH, lse.transpose(1, 2))
        for cross in split.crosses:
            queries = slice(cross.middle, cross.end)
            part, lse = _forward(*_on_prefix(cross, query, key, value), 0.0, False, scale=scale)
            own_lse, prefix_lse = lse_TH[queries], lse[0].transpose(0, 1)
            weight = torch.sigmoid(prefix_lse - own_lse).to(output.dtype)
            output[queries].lerp_(part[0].transpose(0, 1), weight[..., None])
            torch.logaddexp(own_lse, prefix_lse, out=lse_TH[queries])
        ctx.save_for_backward(query, key, value, output, lse_TH)
        ctx.split, ctx.scale = split, scale
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, lse_TH = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        for run in ctx.split.runs:
            inputs = [_block(run, x) for x in (query, key, value, output)]
            lse = _block(run, lse_TH[..., None]).squeeze(-1)
            parts = _backward(_grad_block(run, grad), *inputs, lse, 0.0, True, scale=ctx.scale)
            for whole, part in zip(grads, parts, strict=True):
                _write(run, whole, part.transpose(1, 2))
        for cross in ctx.split.crosses:
            queries, keys = slice(cross.middle, cross.end), slice(cross.start, cross.middle)
            sides = (x[queries].transpose(0, 1)[None] for x in (output, lse_TH))
            grad_1HQD = grad[queries].transpose(0, 1)[None]
            prefix = _on_prefix(cross, query, key, value)
            parts = _backward(grad_1HQD, *prefix, *sides, 0.0, False, scale=ctx.scale)
            for whole, part, tokens in zip(grads, parts, (queries, keys, keys), strict=True):
                whole[tokens] += part[0].transpose(0, 1)
        return *grads, None, None


def _block(run: Alone | SideBySide, x: torch.Tensor) -> torch.Tensor:
    """[T, H, D] -> [N, H, L, D]; in place where the run is one sequence."""
    if isinstance(run, Alone):
        return x[run.start : run.start + run.length].transpose(0, 1)[None]
    return x.index_select(0, run.places_NL).reshape(run.num_sequences, run.length, *x.shape[1:]).transpose(1, 2)


def _grad_block(run: Alone | SideBySide, grad: torch.Tensor) -> torch.Tensor:
    """`_block` of the output's gradient, which at filler places is zero."""
    if isinstance(run, Alone):
        return _block(run, grad)
    rows = grad.new_zeros(run.num_sequences * run.length, *grad.shape[1:])
    rows.index_copy_(0, run.real_M, grad.index_select(0, run.tokens_M))
    return rows.reshape(run.num_sequences, run.length, *grad.shape[1:]).transpose(1, 2)


def _write(run: Alone | SideBySide, whole: torch.Tensor, part: torch.Tensor) -> None:
    """[N, L, ...] into the run's tokens of [T, ...]."""
    if isinstance(run, Alone):
        whole[run.start : run.start + run.length] = part[0]
    else:
        whole.index_copy_(0, run.tokens_M, part.flatten(0, 1).index_select(0, run.real_M))


def _on_prefix(cross: Cross, *inputs: torch.Tensor) -> Iterator[torch.Tensor]:
    """Query, key and value: all of a group's completions as one block of queries, and their prefix."""
    queries, keys = slice(cross.middle, cross.end), slice(cross.start, cross.middle)
    for x, tokens in zip(inputs, (queries, keys, keys), strict=True):
        yield x[tokens].transpose(0, 1)[None]
