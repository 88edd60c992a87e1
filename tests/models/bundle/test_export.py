"""A bundle is whole, says what it is, and gives the same scores to plain transformers in a process without rmray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmray.data.render import RenderRules
from rmray.data.tokenizer import load_tokenizer
from rmray.errors import BundleError
from rmray.models.bundle import load_bundle, read_manifest
from rmray.models.bundle.goldens import load_goldens
from rmray.models.scorer import Scorer, score_requests
from tests.models.bundle.conftest import GOLDENS, REFERENCE

# What a reader of the bundle's card would do: render with the tokenizer, score with transformers, nothing of rmray.
PLAIN = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
directory = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
answer = {"dtype": str(model.dtype), "ids": [], "alone": [], "batched": {}}
for item in json.load(open(directory + "/goldens.json"))["items"]:
    request = item["request"]
    for completion, finished in zip(request["completions"], request["finished"]):
        if not finished or request["id"] is not None:
            continue
        if isinstance(request["prompt"], str):
            text = request["prompt"] + completion
        else:
            chat = request["prompt"] + [{"role": "assistant", "content": completion}]
            text = tokenizer.apply_chat_template(chat, tokenize=False)
        answer["ids"].append(tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id])
with torch.inference_mode():
    for ids in answer["ids"]:
        answer["alone"].append(model(torch.tensor([ids])).logits[0, 0].item())
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = tokenizer.pad({"input_ids": answer["ids"]}, return_tensors="pt")
        answer["batched"][side] = model(**batch).logits[:, 0].tolist()
assert "rmray" not in sys.modules
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def plain(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    ran = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, str(bundle_dir)], cwd=elsewhere, capture_output=True, text=True, check=True
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def test_plain_transformers_renders_the_same_ids_and_gives_the_same_scores(
    bundle_dir: Path, scorer: Scorer, plain: dict[str, Any]
) -> None:
    goldens = load_goldens(bundle_dir).items[: len(GOLDENS)]
    assert [list(ids) for g in goldens for ids in g.token_ids] == plain["ids"]
    ours = [r.raw for response in score_requests(scorer, GOLDENS) for r in response.results]
    assert len(ours) == 4
    assert plain["dtype"] == "torch.float32"
    for theirs in (plain["alone"], plain["batched"]["right"], plain["batched"]["left"]):
        assert np.abs(np.array(ours) - theirs).max() < 1e-5
    assert np.ptp(ours) > 0.1  # scores that could not differ would prove nothing


def test_goldens_are_the_plain_scores(bundle_dir: Path, plain: dict[str, Any]) -> None:
    goldens = load_goldens(bundle_dir)
    assert goldens.scores[:4] == pytest.approx(plain["alone"], abs=1e-6)
    assert goldens.tolerance == 1e-5
    assert goldens.made_with["class"] == "Qwen3ForSequenceClassification"
    assert {g.request.id for g in goldens.items} >= {"probe-text", "probe-tags", "probe-chat"}


def test_manifest_says_what_the_bundle_is(bundle_dir: Path, scorer: Scorer) -> None:
    manifest = read_manifest(bundle_dir)
    assert (manifest.format, manifest.kind, manifest.objective, manifest.pooling) == (
        1,
        "scalar",
        "bradley_terry",
        "last",
    )
    assert manifest.loads_with == "AutoModelForSequenceClassification"
    assert (manifest.base_model, manifest.data_hashes, manifest.metrics) == (
        "tiny-base",
        {"train": "abc"},
        {"loss": 0.5},
    )
    assert (manifest.dtype, manifest.head, manifest.head_trained) == ("float32", "score", True)
    assert manifest.render_rules["template_hash"]
    assert manifest.render_rules["max_length"] == scorer.info.max_length == 200
    assert manifest.model_version == scorer.info.model_version
    assert manifest.tokenizer_hash == scorer.info.tokenizer_hash
    assert {"config.json", "model.safetensors", "tokenizer.json", "goldens.json"} <= set(manifest.files)
    config = json.loads((bundle_dir / "config.json").read_text())
    assert config["pad_token_id"] == manifest.pad["id"] != config["eos_token_id"]


def test_reference_statistics_are_those_of_its_scores(bundle_dir: Path, scorer: Scorer) -> None:
    reference = read_manifest(bundle_dir).reference
    raw = [r.raw for response in score_requests(scorer, REFERENCE) for r in response.results]
    assert reference.num_scores == len(raw) == 70
    assert (reference.mean, reference.std) == pytest.approx((np.mean(raw), np.std(raw)), abs=1e-5)
    assert reference.quantiles == pytest.approx(np.quantile(raw, np.linspace(0, 1, 101)), abs=1e-5)
    rewards = [r.reward for response in score_requests(scorer, REFERENCE) for r in response.results]
    assert (np.mean(rewards), np.std(rewards)) == pytest.approx((0, 1), abs=1e-4)
    assert scorer.info.reference == reference.hash


def test_nothing_is_left_beside_the_bundle_and_only_safetensors_inside(bundle_dir: Path) -> None:
    assert [p.name for p in bundle_dir.parent.iterdir()] == [bundle_dir.name]
    assert not [p for p in bundle_dir.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_existing_directory_is_not_overwritten_unless_told(export: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note.txt").write_text("mine")
    for overwrite in (False, True):  # only bundles are ever replaced
        with pytest.raises(BundleError, match="something already, and it is no bundle"):
            export(tmp_path / "kept", overwrite=overwrite)
    assert (tmp_path / "kept" / "note.txt").read_text() == "mine"
    (tmp_path / "kept" / "rmray.json").write_text("{}")
    with pytest.raises(BundleError, match="a bundle already"):
        export(tmp_path / "kept")


def test_a_place_that_cannot_be_written_to_is_told(export: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot write here"):
        export(tmp_path / "file" / "bundle")


def test_failure_leaves_neither_bundle_nor_rubbish(export: Callable[..., Any], model_dir: Path, tmp_path: Path) -> None:
    rules = RenderRules.for_tokenizer(load_tokenizer(str(model_dir)), max_length=200)
    with pytest.raises(BundleError, match="chat templates differ"):
        export(tmp_path / "bundle", rules=replace(rules, template_hash="0" * 16))
    assert list(tmp_path.iterdir()) == []


def test_mean_pooling_says_it_needs_rmray_and_overwrites_when_told(export: Callable[..., Any], tmp_path: Path) -> None:
    directory = tmp_path / "mean"
    directory.mkdir()
    (directory / "old.txt").write_text("of an older bundle")
    (directory / "rmray.json").write_text("{}")
    first = export(directory, pooling="mean", overwrite=True)
    assert first.manifest.loads_with == "rmray"
    assert "load it with rmray" in (directory / "README.md").read_text()
    assert not (directory / "old.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["mean"]
    # The loaded scorer passes goldens that a plain forward, head over every token and averaged, has scored.
    scorer = load_bundle(directory)
    assert scorer.info.model_version == first.model_version
