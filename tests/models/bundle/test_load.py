"""Every way a bundle can be broken is refused, with what is wrong."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rmray.errors import BundleError
from rmray.models.bundle import load_bundle, read_manifest
from rmray.models.bundle.load import default_dtype, is_exact
from rmray.models.scorer import score_requests
from tests.models.bundle.conftest import GOLDENS, edit_json, reseal


def refused(directory: Path, message: str, **options: Any) -> str:
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(directory, **options)
    assert str(directory) in str(caught.value)
    return str(caught.value)


def change_weights(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_sound_bundle_loads_and_answers(damaged: Path) -> None:
    scorer = load_bundle(str(damaged))
    assert all(r.model_version == scorer.info.model_version for r in score_requests(scorer, GOLDENS)[0].results)
    assert scorer.backbone.packed


def test_directory_without_a_manifest(model_dir: Path, tmp_path: Path) -> None:
    assert "rmray import" in refused(model_dir, "not a bundle")
    refused(tmp_path / "nowhere", "not a bundle")


def test_newer_format_names_the_version_that_reads_it(damaged: Path) -> None:
    edit_json(damaged / "rmray.json", format=7, min_rmray="3.2.0", something_new=True)
    assert "install rmray 3.2.0 or newer" in refused(damaged, "has format 7, and rmray .* reads format 1")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "reference": 3}'])
def test_damaged_manifest(damaged: Path, text: str) -> None:
    (damaged / "rmray.json").write_text(text)
    refused(damaged, "manifest is damaged")


def test_changed_weights_differ_in_their_hash(damaged: Path) -> None:
    change_weights(damaged, lambda tensors: tensors["score.weight"].add_(1e-3))
    refused(damaged, "model.safetensors changed after the bundle was made")


def test_changed_tokenizer_and_template_differ_in_their_hash(damaged: Path) -> None:
    path = damaged / "chat_template.jinja"
    path.write_text(path.read_text() + " ")
    refused(damaged, "chat_template.jinja changed")


def test_missing_files_are_all_named(damaged: Path) -> None:
    (damaged / "goldens.json").unlink()
    (damaged / "tokenizer.json").unlink()
    refused(damaged, "lacks goldens.json, tokenizer.json")


def test_missing_shard_is_named(damaged: Path) -> None:
    tensors = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + (name == 'score.weight')}-of-00002.safetensors" for name in tensors}
    save_file({k: t for k, t in tensors.items() if k != "score.weight"}, damaged / "model-00001-of-00002.safetensors")
    (damaged / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    refused(damaged, "model-00002-of-00002.safetensors missing")


def test_pickles_alone(damaged: Path) -> None:
    torch.save(load_file(damaged / "model.safetensors"), damaged / "pytorch_model.bin")
    (damaged / "model.safetensors").unlink()
    refused(damaged, "pickles only")


def test_absurd_header(damaged: Path) -> None:
    (damaged / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refused(damaged, "not a sound safetensors file")


def test_more_than_one_label(damaged: Path) -> None:
    edit_json(damaged / "config.json", id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    reseal(damaged)
    refused(damaged, "2 labels")


def test_head_that_is_not_in_the_files(damaged: Path) -> None:
    change_weights(damaged, lambda tensors: tensors.pop("score.weight"))
    reseal(damaged)
    refused(damaged, "head was never trained: score.weight")


def test_head_recorded_as_untrained(damaged: Path) -> None:
    edit_json(damaged / "rmray.json", head_trained=False)
    refused(damaged, "head was never trained")


def test_weight_that_is_not_in_the_files(damaged: Path) -> None:
    change_weights(damaged, lambda tensors: tensors.pop("model.norm.weight"))
    reseal(damaged)
    refused(damaged, "1 weight.* not in the files, model.norm.weight")


def test_tokenizer_larger_than_the_vocabulary(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    edit_json(damaged / "config.json", vocab_size=config["vocab_size"] - 1)
    reseal(damaged)
    refused(damaged, "tokenizer and model disagree")


def test_other_tokenizer_is_refused_even_where_hashes_were_made_to_fit(damaged: Path) -> None:
    (damaged / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    reseal(damaged)
    refused(damaged, "the tokenizer is .* and the bundle was made with")


def test_pad_that_disagrees(damaged: Path) -> None:
    edit_json(damaged / "config.json", pad_token_id=5)
    reseal(damaged)
    refused(damaged, "config.json pads with 5")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(damaged: Path, value: float) -> None:
    change_weights(damaged, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"][0].fill_(value))
    reseal(damaged)
    refused(damaged, "NaN or infinite, model.layers.1.mlp.up_proj.weight")


def test_edited_rules_do_not_fit_the_version(damaged: Path) -> None:
    rules = read_manifest(damaged).render_rules
    edit_json(damaged / "rmray.json", render_rules={**rules, "max_length": 9999})
    refused(damaged, "calls itself")


def test_bundle_of_an_unknown_kind(damaged: Path) -> None:
    edit_json(damaged / "rmray.json", kind="oracle")
    refused(damaged, "kind 'oracle'")


def edit_golden(directory: Path, **changes: Any) -> None:
    goldens = json.loads((directory / "goldens.json").read_text())
    goldens["items"][1].update({k: change(goldens["items"][1][k]) for k, change in changes.items()})
    (directory / "goldens.json").write_text(json.dumps(goldens))
    reseal(directory)


def test_golden_that_renders_to_other_ids_says_where(damaged: Path) -> None:
    edit_golden(damaged, token_ids=lambda ids: [[*ids[0][:3], 9, 9, *ids[0][5:]], *ids[1:]])
    refused(damaged, r"golden 1 renders to other token ids: completion 0 has \[9, 9, .*\] at token 3 in the bundle")


def test_golden_score_that_differs_says_by_how_much(damaged: Path) -> None:
    edit_golden(damaged, scores=lambda scores: [[scores[0][0] + 2e-5], *scores[1:]])
    refused(damaged, r"goldens score differently here: 1 of \d+ by more than 1e-05, up to 2e-05")


def test_without_check_neither_hashes_nor_goldens_are_looked_at(damaged: Path) -> None:
    change_weights(damaged, lambda tensors: tensors["score.weight"].mul_(2))
    load_bundle(damaged, check=False)
    shutil.rmtree(damaged)
    refused(damaged, "not a bundle", check=False)


def test_bfloat16_passes_by_reference_deviations_and_keeps_the_head_in_float32(damaged: Path) -> None:
    exact, rough = load_bundle(damaged), load_bundle(damaged, dtype=torch.bfloat16)
    assert rough.backbone.model.score.weight.dtype == torch.float32
    assert rough.backbone.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    exact_rewards, rough_rewards = (
        [r.reward for response in score_requests(s, GOLDENS) for r in response.results] for s in (exact, rough)
    )
    assert exact_rewards != rough_rewards
    assert rough_rewards == pytest.approx(exact_rewards, abs=0.1)


def test_bfloat16_does_not_excuse_a_wrong_model(damaged: Path) -> None:
    change_weights(damaged, lambda tensors: tensors["model.layers.0.self_attn.o_proj.weight"].mul_(1.5))
    reseal(damaged)
    refused(damaged, "goldens score differently", dtype=torch.bfloat16)


def test_only_float32_on_a_cpu_is_held_to_rounding() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert default_dtype(cpu) == torch.float32
    assert [is_exact(cpu, torch.float32), is_exact(cpu, torch.bfloat16), is_exact(gpu, torch.float32)] == [True, 0, 0]
