"""Operations: by hand, and as torch counts them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rmray.benchmark.flops import (
    PlainMeter,
    Work,
    batch_work,
    forward_operations,
    measure_peak,
    needed_work,
    padded_work,
    shared_work,
    training_operations,
)
from rmray.benchmark.score_rows import RmrayRow
from rmray.benchmark.settings import ScoreSettings
from rmray.benchmark.shapes import SHAPES, qwen3_config
from rmray.benchmark.workloads import Workload, make_groups
from tests.benchmark.conftest import TINY

ROWS, WIDTH = 3, 17


ATTENTION = 32 * 32 + 2 * 32 * 16 + 32 * 32  # weights of queries (2 heads x 16), keys and values (1 x 16), output
MLP = 3 * 32 * 64


def linear_of(tokens: int) -> int:
    """Operations of a plain forward's linear layers."""
    return 2 * tokens * (2 * (ATTENTION + MLP) + 32)


def test_padded_forward_as_torch_counts_it(prototype: Any) -> None:
    model = copy.deepcopy(prototype)
    model.config._attn_implementation = "eager"
    input_ids = torch.randint(1, TINY.vocab_size, (ROWS, WIDTH))
    mask = torch.ones_like(input_ids)
    mask[1, 9:] = 0
    with torch.no_grad(), FlopCounterMode(display=False) as counter, PlainMeter(model) as meter:
        model(input_ids=input_ids, attention_mask=mask)
    assert meter.work() == padded_work(ROWS, WIDTH, padded=True) + Work(linear=linear_of(ROWS * WIDTH))
    assert counter.get_total_flops() == forward_operations(model, meter.work())


def test_training_takes_three_forwards_as_torch_counts_it(prototype: Any) -> None:
    counted, work = count_training(prototype, checkpointing=False)
    assert counted == training_operations(prototype, work) == 3 * forward_operations(prototype, work)


def test_checkpointing_takes_about_one_more_as_torch_counts_it(prototype: Any) -> None:
    """torch stops recomputing a layer before its last product, and the head is never recomputed."""
    counted, work = count_training(prototype, checkpointing=True)
    _, plain = count_training(prototype, checkpointing=False)
    assert work.linear == 2 * plain.linear - 2 * plain.tokens * 32
    told = training_operations(prototype, work, checkpointing=True)
    assert told == pytest.approx(4 * forward_operations(prototype, plain), rel=0.01)
    assert 0.93 * told < counted < told


def count_training(prototype: Any, *, checkpointing: bool) -> tuple[int, Work]:
    """Operations by torch's count, and what the meter sees, of a padded forward and backward."""
    model = copy.deepcopy(prototype).train()
    model.config._attn_implementation = "eager"
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    input_ids = torch.randint(1, TINY.vocab_size, (ROWS, WIDTH))
    mask = torch.ones_like(input_ids)
    mask[1, 9:] = 0
    with FlopCounterMode(display=False) as counter, PlainMeter(model) as meter:
        model(input_ids=input_ids, attention_mask=mask).logits.sum().backward()
    return counter.get_total_flops(), meter.work()


def test_pairs_by_hand() -> None:
    assert padded_work(2, 3, padded=True) == Work(6, 2 * 9)
    assert padded_work(2, 3, padded=False) == Work(6, 2 * 6)
    # A prompt of 2 sees 1 + 2; completions of 1 and 3 see 3 and 3 + 4 + 5.
    assert shared_work(2, [1, 3]) == Work(6, 3 + 3 + 12)
    assert shared_work(0, [3]) == Work(3, 6)


def test_a_forward_that_pads_is_counted_so() -> None:
    lengths = [(2, [1, 3]), (4, [1])]
    assert batch_work(lengths, packed=True) == shared_work(2, [1, 3]) + shared_work(4, [1])
    assert batch_work(lengths, packed=False) == padded_work(3, 5, padded=True)
    assert batch_work([], packed=False) == Work()


def test_needed_work_by_hand(prototype: Any) -> None:
    groups = make_groups(Workload("w", 20, 5, 4), 6, 50)
    needed, tokens = needed_work(prototype, groups), sum(g.num_tokens for g in groups)
    assert needed.tokens == tokens
    assert needed.linear == 2 * (tokens * (2 * ATTENTION + MLP) + 24 * (MLP + 32))
    assert forward_operations(prototype, needed) - needed.linear == 4 * 2 * 16 * 2 * needed.attended


def test_our_forward_computes_what_is_needed_and_little_more(prototype: Any) -> None:
    groups = make_groups(Workload("w", 20, 5, 4), 6, TINY.vocab_size)
    work = RmrayRow(prototype, groups, ScoreSettings(threads=1, rows=("rmray",)))().work
    needed = needed_work(prototype, groups)
    assert (work.tokens, work.attended) == (needed.tokens, needed.attended)
    assert needed.linear <= work.linear <= 2 * (needed.tokens * 2 * (ATTENTION + MLP) + 24 * 32)


def test_a_full_batch_needs_no_mask(prototype: Any) -> None:
    input_ids = torch.randint(1, TINY.vocab_size, (2, 5))
    with torch.no_grad(), PlainMeter(prototype) as meter:
        prototype(input_ids=input_ids)
        prototype(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    prototype(input_ids=input_ids)
    twice = padded_work(2, 5, padded=False) + padded_work(2, 5, padded=False)
    assert meter.work() == twice + Work(linear=linear_of(20))


def test_the_peak_is_the_best_shape() -> None:
    both = measure_peak("cpu", torch.float32, shapes=[(2, 2, 2), (256, 256, 256)])
    assert both > 10 * measure_peak("cpu", torch.float32, shapes=[(2, 2, 2)])


@pytest.mark.parametrize(
    ("name", "billions"), [("5m", 0.0052), ("30m", 0.029), ("0.6b", 0.596), ("1.7b", 1.72), ("4b", 4.02), ("8b", 7.57)]
)
def test_shapes_have_the_sizes_of_their_names(name: str, billions: float) -> None:
    """A classifier has the embedding and no output layer: Qwen3-8B, whose two are apart, loses 0.62B."""
    from transformers import Qwen3ForSequenceClassification

    with torch.device("meta"):
        model = Qwen3ForSequenceClassification(qwen3_config(SHAPES[name]))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.05)
