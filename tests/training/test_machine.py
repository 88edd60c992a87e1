"""What is read from a machine and from a base's config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import BertConfig, Gemma2Config, MistralConfig, PreTrainedConfig, Qwen3Config

from rmray.config.train import ModelConfig
from rmray.training.machine import container_room, inspect_machine, inspect_model

SIZES = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
DECODER = {**SIZES, "num_key_value_heads": 2, "head_dim": 16}


def write_control_group(root: Path, limit: str, use: int, cache: int, *, version: int) -> None:
    names = ("memory.max", "memory.current", "memory.stat")
    if version == 1:
        names = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
        (root / "memory").mkdir()
    stat = f"cache 5\n{'total_' if version == 1 else ''}inactive_file {cache}\nslab 7"
    for name, text in zip(names, (limit, str(use), stat), strict=True):
        (root / name).write_text(text + "\n")


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_may_take_what_its_limit_leaves(tmp_path: Path, version: int) -> None:
    assert container_room(tmp_path) == []
    write_control_group(tmp_path, "1000", 700, 150, version=version)
    assert container_room(tmp_path) == [450]  # cached pages of files are given back


@pytest.mark.parametrize(("limit", "room"), [("max", []), ("600", [0])])
def test_a_container_without_limit_or_room(tmp_path: Path, limit: str, room: list[int]) -> None:
    write_control_group(tmp_path, limit, 700, 0, version=2)
    assert container_room(tmp_path) == room


def test_workers_of_a_machine_share_its_memory() -> None:
    alone, shared = (inspect_machine(gpu=False, workers_here=workers) for workers in (1, 4))
    assert alone.device == "cpu"
    assert 0 < shared.free_bytes < alone.free_bytes


@pytest.mark.parametrize(
    ("config", "longest_packed"),
    [
        (Qwen3Config(**DECODER, attention_dropout=0.1), sys.maxsize),  # dropout is the run's, not the base's
        (MistralConfig(**DECODER, sliding_window=48), 48),
        (Gemma2Config(**DECODER), 0),  # a softcap inside attention
        (BertConfig(**SIZES), 0),  # not causal
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PreTrainedConfig) else str(value),
)
def test_a_base_is_known_by_its_config(tmp_path: Path, config: PreTrainedConfig, longest_packed: int) -> None:
    config.save_pretrained(tmp_path)
    shape = inspect_model(ModelConfig(base=str(tmp_path)))
    assert (shape.hidden, shape.intermediate, shape.layers, shape.longest_packed) == (32, 96, 2, longest_packed)
    assert shape.num_parameters > 2 * 32 * (4 * 32 + 2 * 96)  # attention and feed-forward of two layers, at least


def test_what_is_trained_of_a_base_is_counted_without_its_weights(tmp_path: Path) -> None:
    config = Qwen3Config(**DECODER, tie_word_embeddings=True)
    config.save_pretrained(tmp_path)
    attention = 4 * 32 * 32 + 2 * 16  # projections, and the norms of queries and keys
    layer = attention + 3 * 32 * 96 + 2 * 32
    for settings, trained in (
        ({}, None),
        ({"lora": {"r": 4}}, 2 * 4 * 4 * (32 + 32) + 32),
        ({"lora": {"r": 4, "targets": ["up_proj"]}}, 2 * 4 * (32 + 96) + 32),
        ({"freeze": "backbone"}, 32),
        ({"freeze": 1}, layer + 32 + 32),  # the second layer, the last norm, the head
    ):
        shape = inspect_model(ModelConfig.model_validate({"base": str(tmp_path), **settings}))
        assert shape.trained_parameters == trained, settings
