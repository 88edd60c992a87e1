"""Operations: by hand, and as torch counts them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rmray.benchmark.flops import (
    Work,
    WorkMeter,
    batch_work,
    measure_peak,
    model_cost,
    needed_work,
    padded_work,
    shared_work,
)
from rmray.benchmark.shapes import SHAPES, qwen3_config
from rmray.benchmark.workloads import Workload, make_groups
from tests.benchmark.conftest import TINY

ROWS, WIDTH = 3, 17


def test_cost_by_hand(prototype: Any) -> None:
    cost = model_cost(prototype)
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32  # queries (2 heads x 16), keys and values (1 x 16), output
    assert cost.per_token == 2 * 2 * (attention + 3 * 32 * 64)
    assert cost.per_pair == 4 * 2 * 16 * 2
    assert cost.per_head_token == 2 * 32


def test_padded_forward_as_torch_counts_it(prototype: Any) -> None:
    model = copy.deepcopy(prototype)
    model.config._attn_implementation = "eager"
    input_ids = torch.randint(1, TINY.vocab_size, (ROWS, WIDTH))
    mask = torch.ones_like(input_ids)
    mask[1, 9:] = 0
    with torch.no_grad(), FlopCounterMode(display=False) as counter, WorkMeter(model) as meter:
        model(input_ids=input_ids, attention_mask=mask)
    assert meter.work() == padded_work(ROWS, WIDTH, padded=True)
    assert counter.get_total_flops() == model_cost(model).forward(meter.work())


def test_training_takes_three_forwards_as_torch_counts_it(prototype: Any) -> None:
    model = copy.deepcopy(prototype)
    model.config._attn_implementation = "eager"
    input_ids = torch.randint(1, TINY.vocab_size, (ROWS, WIDTH))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits.sum().backward()
    assert counter.get_total_flops() == 3 * model_cost(model).forward(padded_work(ROWS, WIDTH, padded=True))


def test_pairs_by_hand() -> None:
    assert padded_work(2, 3, padded=True) == Work(6, 2 * 9, 6)
    assert padded_work(2, 3, padded=False) == Work(6, 2 * 6, 6)
    # A prompt of 2 sees 1 + 2; completions of 1 and 3 see 3 and 3 + 4 + 5.
    assert shared_work(2, [1, 3]) == Work(6, 3 + 3 + 12, 2)
    assert shared_work(0, [3]) == Work(3, 6, 1)


def test_a_forward_that_pads_is_counted_so() -> None:
    lengths = [(2, [1, 3]), (4, [1])]
    assert batch_work(lengths, packed=True) == shared_work(2, [1, 3]) + shared_work(4, [1])
    assert batch_work(lengths, packed=False) == padded_work(3, 5, padded=True)
    assert batch_work([], packed=False) == Work()


def test_needed_work_is_that_of_the_groups() -> None:
    groups = make_groups(Workload("w", 20, 5, 4), 6, 50)
    needed = needed_work(groups)
    assert needed.tokens == sum(g.num_tokens for g in groups)
    assert needed.head_tokens == 24


def test_a_full_batch_needs_no_mask(prototype: Any) -> None:
    input_ids = torch.randint(1, TINY.vocab_size, (2, 5))
    with torch.no_grad(), WorkMeter(prototype) as meter:
        prototype(input_ids=input_ids)
        prototype(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    prototype(input_ids=input_ids)
    assert meter.work() == padded_work(2, 5, padded=False) + padded_work(2, 5, padded=False)


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
