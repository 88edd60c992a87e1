"""The packed attention function against attention written out, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from rmray.data.batch import Segment
from rmray.models.attention import (
    CALL,
    PACKED_ATTENTION,
    NotPackableError,
    PackedCall,
    PlainCall,
    longest_path,
    packed_attention,
    plan_attention,
    varlen,
)
from rmray.models.attention.flex import block_mask, flex_attention
from rmray.models.attention.plan import BLOCK, Alone, SideBySide, sequences
from rmray.models.attention.varlen import varlen_attention
from tests.models.batches import random_batch

SEGMENTS = random_batch(50).segments


class Layer(nn.Module):
    is_causal = True


def qkv(num_tokens: int, heads: int, key_heads: int, width: int = 8, value_width: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(heads, width), (key_heads, width), (key_heads, value_width)]
    return [
        torch.randn(1, h, num_tokens, d, generator=generator, dtype=torch.float64, requires_grad=True)
        for h, d in shapes
    ]


def visible(call: PackedCall, segments: Sequence[Segment] = SEGMENTS) -> torch.Tensor:
    """[T, T] bool by the definition: a token sees its own prompt and its own completion, up to itself."""
    seen = torch.zeros(call.num_tokens, call.num_tokens, dtype=torch.bool)
    for segment in segments:
        for start, length in segment.suffixes:
            path = [*range(segment.prefix_start, segment.prefix_start + segment.prefix_len)]
            path += range(start, start + length)
            for i, query in enumerate(path):
                seen[query, path[: i + 1]] = True
    return seen


def written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Softmax attention with every key head repeated in place for the query heads that share it."""
    repeats = query.shape[1] // key.shape[1]
    outputs = []
    for head in range(query.shape[1]):
        weights = query[0, head] @ key[0, head // repeats].T * 0.5
        weights = weights.masked_fill(~seen, float("-inf")).softmax(-1)
        outputs.append(weights @ value[0, head // repeats])
    return torch.stack(outputs, dim=1)[None]


@pytest.mark.parametrize(("heads", "key_heads", "value_width"), [(4, 4, 8), (4, 2, 8), (6, 1, 8), (4, 4, 5)])
def test_equals_attention_written_out(heads: int, key_heads: int, value_width: int) -> None:
    call = plan_attention(SEGMENTS, "cpu")
    ours = qkv(call.num_tokens, heads, key_heads, value_width=value_width)
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    output, weights = packed_attention(Layer(), *ours, None, scaling=0.5, **{CALL: call})
    expected = written_out(*theirs, visible(call))
    assert weights is None
    assert output.shape == (1, call.num_tokens, heads, value_width)
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
    output.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-11, rtol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("heads", "key_heads", "value_width"), [(4, 4, 8), (4, 2, 8), (4, 4, 5)])
def test_blocks_under_a_mask_equal_attention_written_out(heads: int, key_heads: int, value_width: int) -> None:
    call = plan_attention(SEGMENTS, "cpu")
    q, k, v = (x.detach() for x in qkv(call.num_tokens, heads, key_heads, value_width=value_width))
    output_THD = flex_attention(*(x[0].transpose(0, 1) for x in (q, k, v)), call.blocks, 0.5)
    torch.testing.assert_close(output_THD[None], written_out(q, k, v, visible(call)), atol=1e-12, rtol=0)


def test_blocks_are_those_in_which_some_query_sees_some_key() -> None:
    lengths = [300, 100, 90, 30, 29, 400, 10]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    groups = [Segment(0, 300, ((300, 100), (400, 90), (490, 30), (520, 29))), Segment(549, 400, ((949, 10),))]
    assert [s for g in groups for s, _ in sequences([g])] == starts
    call = plan_attention(groups, "cpu")
    num_blocks = -(-call.num_tokens // BLOCK)
    expected = torch.zeros(num_blocks, num_blocks, dtype=torch.bool)
    for query, key in visible(call, groups).nonzero().tolist():
        expected[query // BLOCK, key // BLOCK] = True
    found = block_mask(call.blocks).to_dense()[0, 0, :num_blocks, :num_blocks].bool()
    assert torch.equal(found, expected)


def test_paths_hold_every_key_of_a_query_bottom_right_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(q: Any, k: Any, v: Any, queries: Any, keys: Any, max_q: int, max_k: int, **options: Any) -> torch.Tensor:
        """What the kernel is documented to compute, written out."""
        assert options == {"scale": 0.5, "window_size": (-1, 0), "enable_gqa": True}
        assert queries.dtype == keys.dtype == torch.int32
        assert (max_q, max_k) == (int(queries.diff().max()), int(keys.diff().max()))
        parts = []
        for (a, b), (c, d) in zip(pairwise(queries.tolist()), pairwise(keys.tolist()), strict=True):
            seen = torch.ones(b - a, d - c, dtype=torch.bool).tril((d - c) - (b - a))
            parts.append(written_out(*(x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d])), seen)[0])
        return torch.cat(parts)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attend)
    call = plan_attention(SEGMENTS, "cpu")
    q, k, v = qkv(call.num_tokens, 4, 2)
    output_THD = varlen_attention(*(x[0].transpose(0, 1) for x in (q, k, v)), call.paths, 0.5)
    torch.testing.assert_close(output_THD[None], written_out(q, k, v, visible(call)), atol=1e-12, rtol=0)


def test_torch_here_has_the_kernel_that_gpus_take() -> None:
    assert varlen._has_kernel()
    assert not varlen.available(torch.zeros(4, 2, 8, dtype=torch.bfloat16), torch.zeros(4, 2, 8, dtype=torch.bfloat16))


def test_autocast_lowers_attention_as_it_does_torch_own() -> None:
    call = plan_attention(SEGMENTS, "cpu")
    q, k, v = (x.float() for x in qkv(call.num_tokens, 4, 2))
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = packed_attention(Layer(), q, k, v.bfloat16(), None, **{CALL: call})
    assert output.dtype == torch.bfloat16
    exact, _ = packed_attention(Layer(), q, k, v, None, **{CALL: call})
    torch.testing.assert_close(output.float(), exact, atol=0.02, rtol=0.02)


def test_gradients_stay_finite_where_logits_are_large_and_lengths_differ() -> None:
    """Fillers see keys that their row must not weigh by a logsumexp of another token: exp() would run over."""
    call = plan_attention([Segment(0, 12, ((12, 20), (32, 17)))], "cpu")
    q, k, v = ((12 * x.detach()).float().requires_grad_() for x in qkv(call.num_tokens, 4, 2))
    reference = [x.detach().double().requires_grad_() for x in (q, k, v)]
    output, _ = packed_attention(Layer(), q, k, v, None, scaling=1.0, **{CALL: call})
    seen = visible(call, call.segments)
    logits = (2 * reference[0]) @ reference[1].repeat_interleave(2, 1).transpose(-1, -2) * 0.5
    assert logits.masked_fill(~seen, 0).abs().max() > 1000
    expected = written_out(2 * reference[0], *reference[1:], seen)  # it scales by a half
    output.sum().backward()
    expected.sum().backward()
    for ours, theirs in zip((q, k, v), reference, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-2, rtol=1e-3)


def test_heads_whose_numbers_lie_apart_are_read_aright() -> None:
    call = plan_attention(SEGMENTS, "cpu")
    q, k, v = (x.detach() for x in qkv(call.num_tokens, 4, 2))
    apart = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v)]
    assert all(x.stride(-1) != 1 for x in apart)
    plain, _ = packed_attention(Layer(), q, k, v, None, **{CALL: call})
    output, _ = packed_attention(Layer(), *apart, None, **{CALL: call})
    assert torch.equal(output, plain)


def test_short_sequences_of_like_length_share_a_call_and_long_ones_stand_alone() -> None:
    lengths = [300, 100, 90, 30, 29, 400, 10]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    segment = Segment(0, 300, tuple(zip(starts[1:], lengths[1:], strict=True)))
    call = plan_attention([segment], "cpu")
    alone = {(run.start, run.length) for run in call.split.runs if isinstance(run, Alone)}
    together = {(run.num_sequences, run.length) for run in call.split.runs if isinstance(run, SideBySide)}
    assert alone == {(0, 300), (549, 400), (949, 10)}
    assert together == {(2, 100), (2, 30)}
    assert [(c.start, c.middle, c.end) for c in call.split.crosses] == [(0, 300, 959)]


def test_the_longest_path_is_told() -> None:
    assert plan_attention(SEGMENTS, "cpu").longest_path == longest_path(SEGMENTS) == 26
    assert longest_path(()) == 0


@pytest.mark.parametrize(
    "segments",
    [
        (Segment(1, 3, ((4, 2),)),),
        (Segment(0, 3, ((4, 2),)),),
        (Segment(0, 3, ()),),
        (Segment(0, 3, ((3, 2), (6, 1))),),
        (Segment(0, 3, ((3, 0),)),),
    ],
)
def test_segments_that_do_not_follow_each_other_raise(segments: tuple[Segment, ...]) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        plan_attention(segments, "cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": torch.zeros(4)}, "s_aux"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"sinks": torch.zeros(1), "softcap": None}, "sinks"),
        ({"sliding_window": 25}, "sliding window of 25"),
        ({"is_causal": False}, "not causal"),
        ({"dropout": 0.1}, "dropout"),
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, "mask of its own"),
        ({CALL: None}, "without its batch's segments"),
    ],
)
def test_refuses_what_it_does_not_compute(arguments: dict[str, Any], words: str) -> None:
    call = plan_attention(SEGMENTS, "cpu")
    q, k, v = qkv(call.num_tokens, 4, 2)
    arguments = {"attention_mask": None, CALL: call, **arguments}
    with pytest.raises(NotPackableError, match=words):
        packed_attention(Layer(), q, k, v, **arguments)


def test_refuses_other_shapes_than_the_batch() -> None:
    call = plan_attention(SEGMENTS, "cpu")
    q, k, v = qkv(call.num_tokens + 1, 4, 2)
    with pytest.raises(NotPackableError, match="flat batch"):
        packed_attention(Layer(), q, k, v, None, **{CALL: call})
    q, k, v = qkv(call.num_tokens, 4, 3)
    with pytest.raises(NotPackableError, match="keys"):
        packed_attention(Layer(), q, k, v, None, **{CALL: call})
    encoder = Layer()
    encoder.is_causal = False
    q, k, v = qkv(call.num_tokens, 4, 2)
    with pytest.raises(NotPackableError, match="not causal"):
        packed_attention(encoder, q, k, v, None, **{CALL: call})


def test_takes_what_has_no_effect() -> None:
    call = plan_attention(SEGMENTS, "cpu")
    q, k, v = qkv(call.num_tokens, 4, 2)
    harmless = {"position_ids": torch.zeros(1), "softcap": None, "output_attentions": False, "sliding_window": 26}
    plain, _ = packed_attention(Layer(), q, k, v, None, **{CALL: call})
    output, _ = packed_attention(Layer(), q, k, v, None, **{CALL: call}, **harmless)
    assert torch.equal(plain, output)


def test_a_plain_call_is_transformers_own() -> None:
    q, k, v = (t.float() for t in qkv(6, 4, 4))
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    output, _ = packed_attention(Layer(), q, k, v, None, scaling=0.5, **{CALL: PlainCall("sdpa")})
    torch.testing.assert_close(output, written_out(q, k, v, seen), atol=1e-5, rtol=0)


def test_registered_without_a_mask_function() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert ALL_ATTENTION_FUNCTIONS[PACKED_ATTENTION] is packed_attention
    assert PACKED_ATTENTION not in ALL_MASK_ATTENTION_FUNCTIONS
