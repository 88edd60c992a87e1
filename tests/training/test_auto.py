"""What `auto` becomes, by hand-worked figures; and that a worker stays within the memory that it was told of."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from rmray.config.train import TrainConfig
from rmray.errors import ClusterError, ModelError
from rmray.training.auto import (
    Machine,
    ModelShape,
    check_capacity,
    choose,
    choose_buckets,
    choose_zero_stage,
    micro_batch_tokens,
)

GIB = 2**30
TINY = ModelShape(num_parameters=100_000, hidden=32, intermediate=96, layers=2)
SEVEN_B = ModelShape(num_parameters=7_000_000_000, hidden=4096, intermediate=14336, layers=32)
CPU = Machine("cpu", 8 * GIB, bfloat16=False, name="a CPU")
GPU = Machine("cuda", 78 * GIB, bfloat16=True, name="a GPU")


def config(**sections: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(
        {"data": {"train": ["a"]}, **sections, "model": {"base": "b", **sections.get("model", {})}}
    )


@pytest.mark.parametrize(
    ("stage", "parameters", "workers", "expected"),
    [("auto", 1_999_999_999, 8, 0), ("auto", 2_000_000_000, 8, 3), ("auto", 9_000_000_000, 1, 0), (2, 10, 1, 2)],
)
def test_zero_stage(stage: int | str, parameters: int, workers: int, expected: int) -> None:
    assert choose_zero_stage(stage, parameters, workers) == expected


def test_a_small_model_on_cpu() -> None:
    choices = choose(config(), TINY, CPU)
    assert (choices.device, choices.bfloat16, choices.zero_stage) == ("cpu", False, 0)
    assert not choices.gradient_checkpointing
    assert choices.max_micro_batch_tokens == 8192
    assert choices.attended_per_token == 2 * 32 + 96 * 3 // 2


def test_a_large_model_on_gpus() -> None:
    choices = choose(config(workers={"num": 8, "gpus": 1}), SEVEN_B, GPU)
    assert choices.bfloat16
    assert choices.gradient_checkpointing
    assert choices.zero_stage == 3
    state_bytes = 20 * 7e9 / 8
    bytes_per_token = 3 * (32 * 4096 + 2 * (14 * 4096 + 4 * 14336) + 8 * 4096)
    assert choices.max_micro_batch_tokens == int(0.6 * (0.85 * 78 * GIB - GIB / 2 - state_bytes) / bytes_per_token)


def test_frozen_parameters_take_their_weights_and_no_more() -> None:
    adapters = 10_000_000
    shape = replace(SEVEN_B, trained_parameters=adapters)
    choices = choose(config(workers={"num": 1, "gpus": 1}), shape, GPU)
    state_bytes = 4 * 7e9 + 16 * adapters
    bytes_per_token = 3 * (32 * 4096 + 2 * (14 * 4096 + 4 * 14336) + 8 * 4096)
    assert choices.max_micro_batch_tokens == int(0.6 * (0.85 * 78 * GIB - GIB / 2 - state_bytes) / bytes_per_token)
    with pytest.raises(ModelError, match="does not fit"):  # all of them: 130 GiB of weights, gradients and moments
        choose(config(workers={"num": 1, "gpus": 1}), SEVEN_B, GPU)


def test_what_is_set_is_taken() -> None:
    set_by_hand = config(
        model={"dtype": "float32", "gradient_checkpointing": False},
        workers={"num": 8, "gpus": 1, "zero_stage": 1, "max_micro_batch_tokens": 5000},
    )
    choices = choose(set_by_hand, SEVEN_B, GPU)
    assert (choices.bfloat16, choices.zero_stage, choices.gradient_checkpointing) == (False, 1, False)
    assert choices.max_micro_batch_tokens == 5000


def test_bfloat16_where_it_cannot_run() -> None:
    with pytest.raises(ModelError, match="float32") as caught:
        choose(config(model={"dtype": "bfloat16"}), TINY, CPU)
    assert caught.value.where == "model.dtype"


def test_what_cannot_fit_is_said_before_anything_starts() -> None:
    with pytest.raises(ModelError, match=r"model\.gradient_checkpointing"):
        choose(config(workers={"num": 2}), SEVEN_B, GPU)


def test_checkpointing_is_chosen_where_memory_asks_for_it_and_not_before() -> None:
    large = Machine("cuda", 141 * GIB, True, "a GPU of 141 GiB")
    one_b = ModelShape(num_parameters=1_700_000_000, hidden=2048, intermediate=6144, layers=28)
    assert not choose(config(), one_b, large).gradient_checkpointing
    assert choose(config(), one_b, replace(large, free_bytes=64 * GIB)).gradient_checkpointing
    # What the user asks to fit in one forward decides, where that is said.
    asked = config(workers={"max_micro_batch_tokens": 60_000})
    assert choose(asked, one_b, large).gradient_checkpointing
    assert not choose(config(model={"gradient_checkpointing": False}), one_b, large).gradient_checkpointing


def test_buckets_follow_the_width_of_the_model_within_bounds() -> None:
    gpu, cpu = Machine("cuda", GIB, True, "a GPU"), Machine("cpu", GIB, False, "a CPU")
    assert choose_buckets(TINY, cpu) == (5_000_000, 320)
    assert choose_buckets(replace(TINY, hidden=8192), gpu) == (8192**2, 81_920)
    assert choose_buckets(replace(TINY, hidden=65_536), gpu).elements == 200_000_000
    assert choose_buckets(TINY, gpu).elements == 20_000_000


def test_more_memory_checkpointing_or_shards_never_give_fewer_tokens() -> None:
    def tokens(shape: ModelShape = SEVEN_B, machine: Machine = GPU, **changes: Any) -> int:
        options = {"shards": 16, "gradient_checkpointing": False, "bfloat16": True, "at_least": 1}
        return micro_batch_tokens(shape, machine, **(options | changes))

    assert tokens() < tokens(machine=replace(GPU, free_bytes=100 * GIB))
    assert tokens() < tokens(shards=32)
    assert tokens() < tokens(gradient_checkpointing=True)
    assert tokens(bfloat16=False) < tokens()


@pytest.mark.parametrize(
    ("model", "longest_packed", "shared"),
    [
        ({}, 1024, True),
        ({}, 1023, False),  # some paths are longer than the sliding window
        ({}, 0, False),
        ({"packed": False}, 2048, False),
        ({"dropout": 0.1}, 2048, False),  # drawn inside attention, which the packed forward refuses
    ],
)
def test_batches_are_planned_for_the_forward_that_is_taken(
    model: dict[str, Any], longest_packed: int, shared: bool
) -> None:
    shape = replace(TINY, longest_packed=longest_packed)
    assert choose(config(model=model), shape, CPU).shared_prefix is shared


WORKER = """
import json, pathlib, re, sys
import numpy as np, psutil, torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification
from rmray.data.batch import build_batch
from rmray.data.group import TokenGroup
from rmray.models.backbone import RewardBackbone
from rmray.models.memory import keep_freed_memory
from rmray.training.auto import Machine, ModelShape, micro_batch_tokens
from rmray.training.engine import EngineSettings, TorchEngine

free_bytes, packed = int(sys.argv[1]), sys.argv[2] == "packed"
torch.set_num_threads(1)
keep_freed_memory()  # as the worker does
before = psutil.Process().memory_info().rss
sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
config = Qwen3Config(vocab_size=1000, num_attention_heads=4, num_key_value_heads=2, head_dim=64, num_labels=1, **sizes)
model = Qwen3ForSequenceClassification(config)
engine = TorchEngine(lambda gather: RewardBackbone(model, packed=packed), EngineSettings())
budget = micro_batch_tokens(
    ModelShape(sum(p.numel() for p in model.parameters()), hidden=256, intermediate=768, layers=4),
    Machine("cpu", free_bytes, False, "a CPU"), shards=1, gradient_checkpointing=False, bfloat16=False, at_least=256,
)
ids = lambda length: np.random.default_rng(0).integers(0, 1000, length).astype(np.int32)
pair = TokenGroup(ids(64), (ids(64), ids(64)), (64, 64))
batch = build_batch([pair] * (budget // (pair.num_tokens if packed else 2 * pair.max_path_len)))
for _ in range(5):  # the allocator holds on to more after some steps
    scores_S = engine.forward(batch)
    engine.backward(-torch.nn.functional.logsigmoid(scores_S[0::2] - scores_S[1::2]).sum(), last=True)
    engine.step(1e-4)
# Not ru_maxrss: that of a child begins with what its parent, the whole suite, had when it was forked.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"budget": budget, "growth": peak - before, "peak": peak}))
"""


@pytest.mark.parametrize("forward", ["packed", "padded"])
def test_a_worker_stays_within_the_memory_it_was_told_of(forward: str) -> None:
    """A process of its own, told of 1 GiB: five steps on the largest micro-batch that `auto` allows."""
    command = [sys.executable, "-c", WORKER, str(GIB), forward]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout)
    assert 1000 < figures["budget"] < 8192
    assert figures["peak"] <= GIB
    # Without the half GiB that a process takes before it holds a model; and the estimate is no idle guess.
    assert GIB // 8 < figures["growth"] <= GIB // 2


def test_capacity_is_counted_by_node() -> None:
    # A worker is not cut in two: 2 x 3 CPUs hold two workers of 2 CPUs each, not three.
    nodes = [{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}]
    assert check_capacity(config(workers={"num": 2, "cpus": 2}), nodes) == 1
    assert check_capacity(config(workers={"num": 5}), nodes) == 3
    with pytest.raises(ClusterError, match="room for 2"):
        check_capacity(config(workers={"num": 3, "cpus": 2}), nodes)
    with pytest.raises(ClusterError, match="6 CPUs and 1 GPUs in all, room for 1"):
        check_capacity(config(workers={"num": 2, "gpus": 1}), nodes)
