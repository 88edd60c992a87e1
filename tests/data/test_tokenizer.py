from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rmray.data.tokenizer import PAD_TOKEN, PadChoice, choose_pad_token, load_tokenizer, tokenizer_hash
from rmray.errors import ModelError
from tests.data.tokenizers import bert_like, byte_level, llama_like, plain_like, qwen_like


def test_a_good_pad_token_is_kept() -> None:
    tokenizer = plain_like()
    assert choose_pad_token(tokenizer, len(tokenizer)) == PadChoice("<pad>", 0, "kept", False)


@pytest.mark.parametrize(
    ("specials", "pad", "chosen", "rule"),
    [
        (["<eos>", "<|reserved_0|>", "<|reserved_1|>"], None, "<|reserved_0|>", "spare"),
        (["<eos>", "<|reserved_0|>", "<|finetune_right_pad_id|>"], None, "<|finetune_right_pad_id|>", "spare"),
        (["<eos>", "<|reserved_0|>"], "<eos>", "<|reserved_0|>", "spare"),  # pad == EOS
        (["<eos>", "<|vision_pad|>"], "<eos>", "<|vision_pad|>", "spare"),
        (["<eos>", "<|endoftext|>"], None, "<|endoftext|>", "spare"),
        (["<eos>", "<|padding_of_the_house|>"], None, PAD_TOKEN, "added"),  # the name holds "pad" inside a word
        (["<eos>"], "<eos>", PAD_TOKEN, "added"),
        (["<eos>"], None, PAD_TOKEN, "added"),
    ],
)
def test_the_pad_token_follows_one_rule(specials: list[str], pad: str | None, chosen: str, rule: str) -> None:
    tokenizer = byte_level(specials, eos_token="<eos>", **({"pad_token": pad} if pad else {}))
    vocab_size = len(tokenizer)
    choice = choose_pad_token(tokenizer, vocab_size)
    assert (choice.token, choice.rule, choice.added) == (chosen, rule, rule == "added")
    assert tokenizer.pad_token == chosen
    assert tokenizer.pad_token_id == choice.id != tokenizer.eos_token_id
    assert choice.added == (choice.id >= vocab_size)


def test_the_unknown_token_serves_before_one_is_added() -> None:
    tokenizer = byte_level(["<unk>", "<eos>"], unk_token="<unk>", eos_token="<eos>")
    assert choose_pad_token(tokenizer, len(tokenizer)) == PadChoice("<unk>", 0, "unknown", False)


def test_a_token_that_the_template_writes_is_not_spare() -> None:
    tokenizer = byte_level(["<eos>", "<|reserved_turn|>"], eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}<|reserved_turn|>{{ m['content'] }}{% endfor %}"
    assert choose_pad_token(tokenizer, len(tokenizer)).token == PAD_TOKEN


def test_an_added_token_needs_no_resizing_where_the_embedding_has_spare_rows() -> None:
    tokenizer = byte_level(["<eos>"], eos_token="<eos>")
    before = len(tokenizer)
    choice = choose_pad_token(tokenizer, before + 64)
    assert choice == PadChoice(PAD_TOKEN, before, "added", False)


def test_a_pad_token_outside_the_vocabulary_is_replaced() -> None:
    tokenizer = byte_level(["<eos>", "<|reserved|>"], eos_token="<eos>")
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # added by somebody, with no row in the embedding
    assert choose_pad_token(tokenizer, rows).token == "<|reserved|>"


def test_the_hash_names_what_text_becomes(tmp_path: Path) -> None:
    tokenizer = qwen_like()
    name = tokenizer_hash(tokenizer)
    assert len(name) == 16
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert tokenizer_hash(loaded) == name
    loaded("some text", padding="max_length", truncation=True, max_length=8)  # leaves its mark on the backend
    assert tokenizer_hash(loaded) == name
    assert tokenizer_hash(llama_like()) != name
    loaded.chat_template += " "
    assert tokenizer_hash(loaded) != name
    other_eos = qwen_like()
    other_eos.eos_token = "<|endoftext|>"
    assert tokenizer_hash(other_eos) != name


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level(["<eos>"], eos_token="<eos>", pad_token="<eos>"),
        byte_level(["<eos>", "<|reserved|>"], eos_token="<eos>"),
        byte_level(["<unk>", "<eos>"], unk_token="<unk>", eos_token="<eos>"),
        bert_like(),
    ],
    ids=["added", "spare", "unknown", "kept"],
)
def test_the_hash_outlives_another_pad_token(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "base")
    loaded = load_tokenizer(str(tmp_path / "base"))
    name = tokenizer_hash(loaded)
    choose_pad_token(loaded, len(loaded))
    assert tokenizer_hash(loaded) == name
    loaded.save_pretrained(tmp_path / "bundle")
    assert tokenizer_hash(load_tokenizer(str(tmp_path / "bundle"))) == name


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a tokenizer") as error:
        load_tokenizer(str(tmp_path))
    assert error.value.where == str(tmp_path)
