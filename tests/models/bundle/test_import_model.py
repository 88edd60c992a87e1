"""Published reward models become bundles with their weights as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rmray.errors import BundleError, DataError, ModelError, UserError
from rmray.models.bundle import import_bundle, load_bundle, read_manifest
from rmray.models.bundle.goldens import load_goldens
from rmray.models.bundle.import_model import find_model, longest_path
from rmray.models.reward import Unfinished
from rmray.models.scorer import score_requests
from rmray.schema import ScoreRequest
from tests.models.bundle.conftest import REFERENCE, edit_json, save_classifier


@pytest.fixture(scope="module")
def reference_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "pairs.jsonl"
    rows = [
        {"prompt": r.prompt if isinstance(r.prompt, str) else list(r.prompt), "completions": list(r.completions)}
        for r in REFERENCE
    ]
    lines = [json.dumps(r) for r in rows] + ["{broken", json.dumps({"chosen": "Two. Yes", "rejected": "Two. No"})]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def padless_dir(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 model in shards whose pad is its EOS and whose vocabulary holds no token to spare."""
    directory = save_classifier(
        tiny_base, tmp_path_factory.mktemp("published") / "model", dtype=torch.bfloat16, shard="20KB"
    )
    config = json.loads((directory / "config.json").read_text())
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<pad>"]
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    edit_json(directory / "tokenizer_config.json", pad_token="<eos>")
    edit_json(directory / "config.json", pad_token_id=config["eos_token_id"])
    (directory / "LICENSE").write_text("do as you like")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert len(list(directory.glob("*.safetensors"))) > 1
    return directory


@pytest.fixture(scope="module")
def imported(padless_dir: Path, reference_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("imported") / "bundle"
    import_bundle(
        padless_dir, directory, reference_file=reference_file, unfinished=Unfinished("penalty", 1.0), max_length=300
    )
    return directory


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in directory.glob("*.safetensors") for name, t in load_file(path).items()}


def test_weights_stay_as_they_were_but_for_the_row_of_the_new_pad(padless_dir: Path, imported: Path) -> None:
    before, after = tensors_of(padless_dir), tensors_of(imported)
    name = "model.embed_tokens.weight"
    grown, old = after.pop(name), before.pop(name)
    assert grown.shape == (len(old) + 1, old.shape[1])
    assert torch.equal(grown[:-1], old)
    assert not grown[-1].any()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)


def test_pad_is_safe_and_recorded(imported: Path) -> None:
    manifest, config = read_manifest(imported), json.loads((imported / "config.json").read_text())
    assert manifest.pad["added"]
    assert manifest.pad["rule"] == "added"
    assert config["pad_token_id"] == manifest.pad["id"] == config["vocab_size"] - 1
    assert config["pad_token_id"] != config["eos_token_id"]


def test_manifest_tells_where_it_came_from(padless_dir: Path, imported: Path) -> None:
    manifest = read_manifest(imported)
    assert (manifest.objective, manifest.pooling, manifest.dtype) == ("imported", "last", "bfloat16")
    assert (manifest.base_model, manifest.name) == (str(padless_dir), "model")
    assert manifest.license == "apache-2.0"
    assert (imported / "LICENSE").read_text() == "do as you like"
    assert manifest.unfinished == Unfinished("penalty", 1.0)
    assert manifest.reference.source == "pairs.jsonl"
    assert manifest.reference.num_scores == 72  # the broken row is passed over
    assert len(load_goldens(imported).items) == 8 + 3


def test_scores_are_those_of_the_published_model(padless_dir: Path, imported: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    scorer = load_bundle(imported)
    request = ScoreRequest(prompt="Question: what is two plus three? ", completions=("Five.",))
    encoded = scorer.encode([request])[0]
    published = AutoModelForSequenceClassification.from_pretrained(padless_dir, dtype=torch.float32).eval()
    published.config.pad_token_id = None  # its own pad would skip the EOS
    with torch.inference_mode():
        wanted = published(torch.tensor([encoded.group.path(0).tolist()])).logits.item()
    assert score_requests(scorer, [request])[0].results[0].raw == pytest.approx(wanted, abs=1e-5)


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with one label, which reads its first token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = sorted({w for r in REFERENCE for c in r.completions for w in c.replace(".", " .").split()})
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(vocabulary),
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=1,
        pad_token_id=0,
        **sizes,
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    directory = tmp_path_factory.mktemp("encoder") / "bert"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_encoder_is_read_at_its_first_token(encoder_dir: Path, reference_file: Path, tmp_path: Path) -> None:
    info = import_bundle(encoder_dir, tmp_path / "bundle", reference_file=reference_file)
    assert info.manifest.pooling == "first"
    assert info.manifest.loads_with == "AutoModelForSequenceClassification"
    assert info.manifest.render_rules["max_length"] == 64
    scorer = load_bundle(tmp_path / "bundle")
    assert not scorer.backbone.packed
    first, second = score_requests(scorer, [r for r in REFERENCE if isinstance(r.prompt, str)][:1])[0].results
    assert first.raw != second.raw


def test_without_a_reference_file_it_says_why_one_is_needed(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs a reference file(.|\n)*no scale(.|\n)*chosen and rejected"):
        import_bundle(model_dir, tmp_path / "b", reference_file=None)


def test_missing_or_useless_reference_files(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        import_bundle(model_dir, tmp_path / "b", reference_file=tmp_path / "nowhere.jsonl")
    useless = tmp_path / "useless.jsonl"
    useless.write_text('{"prompt": "no completion"}\n')
    with pytest.raises(DataError, match=r"no row of the reference file(.|\n)*missing_field"):
        import_bundle(model_dir, tmp_path / "b", reference_file=useless)


def test_max_length_beyond_what_the_model_was_made_for(model_dir: Path, reference_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="max_length is 9999, and the model was made for 2048"):
        import_bundle(model_dir, tmp_path / "b", reference_file=reference_file, max_length=9999)
    for too_short in (0, -5):
        with pytest.raises(ModelError, match=f"max_length is {too_short}"):
            import_bundle(model_dir, tmp_path / "b", reference_file=reference_file, max_length=too_short)


@pytest.mark.parametrize(
    ("positions", "said", "limit"),
    [(512, 10**30, 512), (514, 512, 512), (None, 10**30, None), (-1, 128, 128), (2048, None, 2048)],
)
def test_longest_path_is_what_model_and_tokenizer_agree_on(positions: Any, said: Any, limit: int | None) -> None:
    class Config:
        max_position_embeddings = positions

        def get_text_config(self) -> Config:
            return self

    class Tokenizer:
        model_max_length = said

    assert longest_path(Config(), Tokenizer()) == limit  # type: ignore[arg-type]


def import_of(directory: Path, reference_file: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        import_bundle(directory, tmp_path / "refused", reference_file=reference_file)
    assert not list(tmp_path.glob("*refused*"))
    return str(caught.value)


def test_base_model_and_untrained_heads_are_refused(tiny_base: Path, reference_file: Path, tmp_path: Path) -> None:
    assert "is a Qwen3ForCausalLM, not a reward model" in import_of(tiny_base, reference_file, tmp_path)
    base = save_classifier(tiny_base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["score.weight"]
    from safetensors.torch import save_file

    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert "head was never trained: score.weight" in import_of(base, reference_file, tmp_path)


def test_more_than_one_label_is_refused(tiny_base: Path, reference_file: Path, tmp_path: Path) -> None:
    model = save_classifier(tiny_base, tmp_path / "five", num_labels=5)
    assert "the model has 5 labels" in import_of(model, reference_file, tmp_path)


def test_pickles_and_adapters_are_refused(model_dir: Path, reference_file: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((model_dir / "config.json").read_text())
    torch.save({}, pickled / "pytorch_model.bin")
    assert "pickles only" in import_of(pickled, reference_file, tmp_path)
    (pickled / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in import_of(pickled, reference_file, tmp_path)


def test_existing_target_is_found_before_any_work(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "file").touch()
    with pytest.raises(BundleError, match="something already"):
        import_bundle(model_dir, tmp_path / "bundle", reference_file="nowhere.jsonl")


@pytest.mark.parametrize("name", ["nobody/no-such-model", "./no/such/directory", ""])
def test_name_that_is_no_model(name: str) -> None:
    with pytest.raises(ModelError, match="no such model"):
        find_model(name)
