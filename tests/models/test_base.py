"""Loading: what is kept, what is initialised, and what each bad model directory is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    Qwen3Config,
)

from rmray.errors import ModelError
from rmray.models.base import (
    check_dtype,
    check_vocabulary,
    has_trained_head,
    initial_head_weight,
    load_reward_model,
    read_vocab_size,
)


def load(directory: str | Path, **options: Any) -> Any:
    return load_reward_model(directory, **{"dtype": torch.float32, "pad_id": 0, "seed": 0, **options})


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base that the test may spoil."""
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


@pytest.fixture
def spoil(copied: Path) -> Callable[[Callable[[dict[str, torch.Tensor]], Any]], Path]:
    """Change the copy's weights."""

    def apply(change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
        tensors = load_file(copied / "model.safetensors")
        change(tensors)
        save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
        return copied

    return apply


def test_a_base_gets_a_reproducible_head_and_keeps_its_weights(tiny_base: Path) -> None:
    torch.manual_seed(5)
    expected_draw = torch.rand(3)
    torch.manual_seed(5)
    model, again, other = load(tiny_base), load(tiny_base), load(tiny_base, seed=1)
    assert torch.equal(torch.rand(3), expected_draw), "loading must leave the global generator alone"
    assert not has_trained_head(model)
    assert torch.equal(model.score.weight, initial_head_weight((1, 32), 0))
    assert torch.equal(model.score.weight, again.score.weight)
    assert not torch.equal(model.score.weight, other.score.weight)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert torch.equal(model.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert (model.config.num_labels, model.config.pad_token_id) == (1, 0)
    assert not model.training


def test_initial_head_weight_is_known() -> None:
    weight = initial_head_weight((1, 4095), 7)
    assert weight.dtype == torch.float32
    assert abs(float(weight.std()) - 1 / 64) < 1e-3
    assert torch.equal(weight, initial_head_weight((1, 4095), 7))


def test_a_trained_head_is_kept_to_the_last_digit(tiny_base: Path, tmp_path: Path) -> None:
    model = load(tiny_base, seed=3)
    model.save_pretrained(tmp_path / "saved")
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load(tmp_path / "saved", seed=9, dtype=dtype)
        assert has_trained_head(loaded)
        assert loaded.score.weight.dtype == torch.float32
        assert torch.equal(loaded.score.weight, model.score.weight)
        assert loaded.model.embed_tokens.weight.dtype == dtype
        ids = torch.tensor([[5, 6, 7]])
        with torch.no_grad():
            assert loaded(ids).logits.dtype == torch.float32
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(plain.score.weight, model.score.weight)


def test_a_sharded_trained_head_is_found(tiny_base: Path, tmp_path: Path) -> None:
    model = load(tiny_base)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    loaded = load(tmp_path / "shards", dtype=torch.bfloat16, seed=4)
    assert torch.equal(loaded.score.weight, model.score.weight)


def test_dropout_is_off_unless_asked_for(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.3}))
    assert load(copied).config.attention_dropout == 0.0
    assert load(copied, dropout=0.1).config.attention_dropout == 0.1
    assert load(copied, dropout=0.1).model.layers[0].self_attn.attention_dropout == 0.1


def test_an_encoder_gets_its_pooler_and_head(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    first, again = load(tmp_path), load(tmp_path)
    assert not has_trained_head(first)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    assert torch.equal(first.classifier.weight, initial_head_weight((1, 16), 0))
    assert not first.classifier.bias.any()
    assert first.config.hidden_dropout_prob == 0.0


def test_a_pad_token_past_the_vocabulary_gets_a_row(tiny_base: Path) -> None:
    rows = read_vocab_size(tiny_base)
    model = load(tiny_base, pad_id=rows)
    assert model.get_input_embeddings().weight.shape[0] == rows + 1
    assert not model.get_input_embeddings().weight[rows].any()
    assert model.config.pad_token_id == rows
    assert model.config.vocab_size == rows + 1
    assert torch.equal(model.model.embed_tokens.weight[:rows], load(tiny_base).model.embed_tokens.weight)
    with pytest.raises(ModelError, match="outside the vocabulary"):
        load(tiny_base, pad_id=rows + 1)


def test_partitioned_weights_are_gathered_to_be_set(tiny_base: Path) -> None:
    gathered: list[tuple[int, ...]] = []

    @contextmanager
    def gather(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
        gathered.extend(tuple(p.shape) for p in parameters)
        yield

    rows = read_vocab_size(tiny_base)
    load(tiny_base, pad_id=rows, gather=gather)
    assert gathered == [(rows + 1, 32), (1, 32)]


@pytest.mark.parametrize("name", ["/no/such/place", "./here", "~/there", "a/b/c"])
def test_a_missing_directory_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="no such model directory") as caught:
        load(name)
    assert caught.value.where == name


def test_an_unknown_hub_id_is_named() -> None:
    with pytest.raises(ModelError, match="no model can be read") as caught:
        load("rmray-tests/no-such-model")
    assert caught.value.where == "rmray-tests/no-such-model"


def test_a_directory_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"model_type": "no-such-architecture"}', "{not json", '{"model_type": "vit"}'], ids=lambda t: t[:16]
)
def test_a_config_that_is_no_text_model(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        load(copied)
    assert caught.value.where == str(copied)


def test_pickle_weights_are_refused_unread(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match=r"pickle files only \(pytorch_model\.bin\)") as caught:
        load(copied)
    assert "save_pretrained" in caught.value.next_step


def test_a_directory_without_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load(copied)


def test_a_missing_shard_is_named(tiny_base: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        load(tmp_path / "shards")


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"])
def test_damaged_weights(copied: Path, content: bytes) -> None:
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copied)


def test_weights_that_lack_a_layer(spoil: Any) -> None:
    directory = spoil(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load(directory)


def test_weights_of_other_sizes(spoil: Any) -> None:
    directory = spoil(lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(spoil: Any, value: float) -> None:
    def break_one(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value

    directory = spoil(break_one)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load(directory)


def test_more_labels_than_one_are_refused(tmp_path: Path) -> None:
    config = Qwen3Config(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8)
    config.num_attention_heads = config.num_key_value_heads = 2
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match=r"Qwen3ForSequenceClassification with 3 label"):
        load(tmp_path / "three")
    config.num_labels = 1
    AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path / "tokens")
    with pytest.raises(ModelError, match=r"Qwen3ForTokenClassification with 1 label"):
        load(tmp_path / "tokens")


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    check_vocabulary(99, 100, where="model")
    with pytest.raises(ModelError, match="up to 100"):
        check_vocabulary(100, 100, where="model")


def test_bfloat16_where_the_device_has_none(tiny_base: Path) -> None:
    check_dtype(torch.bfloat16, "cuda", supported=lambda device: True)
    check_dtype(torch.float32, "cpu", supported=lambda device: False)
    with pytest.raises(ModelError, match="cpu device does not have it") as caught:
        check_dtype(torch.bfloat16, "cpu", supported=lambda device: False)
    assert "float32" in caught.value.next_step
    with pytest.raises(ModelError, match="not offered"):
        load(tiny_base, dtype=torch.float16)
