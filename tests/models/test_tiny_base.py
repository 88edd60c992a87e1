"""The tiny base that the quickstart trains is made from texts alone, the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from rmray.models.tiny_base import MIN_VOCAB_SIZE, build_tiny_base

TEXTS = ("one two three four", "one two three five", "one more text, of other words") * 3


def files_of(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def test_same_texts_and_seed_give_the_same_files(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"layers": 1, "hidden": 16, "vocab_size": 280}
    first, again, other = (
        files_of(build_tiny_base(tmp_path / name, TEXTS, seed=seed, **sizes))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again
    assert [n for n in first if first[n] != other[n]] == ["model.safetensors"]


def test_shapes_and_tokens_are_the_ones_asked_for(tiny_base: Path, tiny_tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size) == (2, 32)
    assert config.num_attention_heads * config.head_dim == 32
    assert config.vocab_size == len(tiny_tokenizer) <= 400
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (tiny_tokenizer.pad_token, tiny_tokenizer.eos_token) == ("<pad>", "<eos>")
    assert (config.pad_token_id, config.eos_token_id) == (tiny_tokenizer.pad_token_id, tiny_tokenizer.eos_token_id)
    assert tiny_tokenizer.model_max_length == config.max_position_embeddings == 2048


@pytest.mark.parametrize("text", ["Tea, naïve café — 日本 🙂\n\ttabs", "a  b   c", ""])
def test_any_text_survives_the_tokenizer(tiny_tokenizer: Any, text: str) -> None:
    ids = tiny_tokenizer(text)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text
    offsets = tiny_tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert len(offsets) == len(ids)


def test_chat_template_has_one_token_for_each_end_of_a_turn(tiny_tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes."}]
    text = tiny_tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|user|>Is it?<|end|><|assistant|>Yes.<|end|>"
    prompt = tiny_tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    special = [t for t in tiny_tokenizer.convert_ids_to_tokens(ids) if t.startswith("<|")]
    assert special == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]


@pytest.mark.parametrize("sizes", [{"hidden": 30, "heads": 4}, {"hidden": 12, "heads": 4}, {"vocab_size": 100}])
def test_sizes_that_do_not_fit_raise(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        build_tiny_base(tmp_path, TEXTS, **{"layers": 1, "hidden": 16, "vocab_size": MIN_VOCAB_SIZE, **sizes})
