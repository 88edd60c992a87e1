"""What `auto` becomes, by hand-worked figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rmray.config.train import TrainConfig
from rmray.errors import ClusterError, ModelError
from rmray.training.auto import Machine, ModelShape, check_capacity, choose, choose_zero_stage, micro_batch_tokens

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


def test_a_large_model_on_gpus() -> None:
    choices = choose(config(workers={"num": 8, "gpus": 1}), SEVEN_B, GPU)
    assert choices.bfloat16
    assert choices.gradient_checkpointing
    assert choices.zero_stage == 3
    state_bytes = 20 * 7e9 / 8
    bytes_per_token = 3 * (32 * 4096 + (12 * 4096 + 4 * 14336) + 8 * 4096)
    assert choices.max_micro_batch_tokens == int((0.6 * 78 * GIB - state_bytes) / bytes_per_token) == 40_383


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


def test_more_memory_checkpointing_or_shards_never_give_fewer_tokens() -> None:
    def tokens(shape: ModelShape = SEVEN_B, machine: Machine = GPU, **changes: Any) -> int:
        options = {"shards": 16, "gradient_checkpointing": False, "bfloat16": True, "at_least": 1}
        return micro_batch_tokens(shape, machine, **(options | changes))

    assert tokens() < tokens(machine=replace(GPU, free_bytes=100 * GIB))
    assert tokens() < tokens(shards=32)
    assert tokens() < tokens(gradient_checkpointing=True)
    assert tokens(bfloat16=False) < tokens()


def test_capacity_is_counted_by_node() -> None:
    # A worker is not cut in two: 2 x 3 CPUs hold two workers of 2 CPUs each, not three.
    nodes = [{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}]
    assert check_capacity(config(workers={"num": 2, "cpus": 2}), nodes) == 1
    assert check_capacity(config(workers={"num": 5}), nodes) == 3
    with pytest.raises(ClusterError, match="room for 2"):
        check_capacity(config(workers={"num": 3, "cpus": 2}), nodes)
    with pytest.raises(ClusterError, match="6 CPUs and 1 GPUs in all, room for 1"):
        check_capacity(config(workers={"num": 2, "gpus": 1}), nodes)
