"""A run with adapters gives the same scores in training, merged, and with the adapter apart: here and in a process that
has never heard of rmray."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rmray.data.batch import build_batch
from rmray.errors import BundleError, ModelError
from rmray.models.backbone import RewardBackbone
from rmray.models.base import load_reward_model
from rmray.models.bundle import load_bundle, read_manifest
from rmray.models.bundle.goldens import load_goldens
from rmray.models.bundle.publish import publish_bundle
from rmray.models.head_scorer import HeadScorer
from rmray.models.lora import remove_adapters
from rmray.training.model import make_model
from tests.models.bundle.conftest import edit_json, reseal
from tests.training.chain import Version

TOLERANCE = 1e-5

# What a user of peft does with the adapter alone, over the base that it was trained on: the head comes with it.
WITH_PEFT = """
import json, sys, torch, peft, transformers
base, goldens, *adapters = sys.argv[1:]
config = transformers.AutoConfig.from_pretrained(base, num_labels=1)
items = json.load(open(goldens))["items"]

def scores(model):
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0, 0].item() for item in items for ids in item["token_ids"]]

answer = []
for adapter in adapters:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, adapter).eval()
    answer.append({"adapter": scores(model), "merged": scores(model.merge_and_unload())})
assert "rmray" not in sys.modules
print(json.dumps(answer))
"""


def scores_of(scorer: HeadScorer, bundle: Path, backbone: RewardBackbone | None = None) -> np.ndarray:
    encoded = scorer.encode([golden.request for golden in load_goldens(bundle).items])
    with torch.inference_mode():
        batch = build_batch([e.group for e in encoded if e.group is not None])
        return (backbone or scorer.backbone)(batch).numpy()


def trained(version: Version) -> RewardBackbone:
    """As training left it."""
    config, pad_id = version.job.config, version.job.pad_id
    return RewardBackbone(make_model(config, pad_id=pad_id, device="cpu", checkpoint_dir=version.checkpoint_dir))


@pytest.mark.parametrize("place", [0, 1], ids=["merged", "apart"])
def test_trained_merged_and_apart_score_the_same(versions: tuple[Version, Version], place: int) -> None:
    version = versions[place]
    scorer = load_bundle(version.bundle)
    backbone = trained(version)
    wanted = scores_of(scorer, version.bundle, backbone)
    assert np.abs(scores_of(scorer, version.bundle) - wanted).max() < TOLERANCE
    remove_adapters(backbone.model, merge=False)
    without = scores_of(scorer, version.bundle, backbone)
    assert np.abs(without - wanted).max() > 0.05  # without its adapters it is another model
    assert not [path for path in Path(version.job.run_dir).iterdir() if path.name.startswith(".")]


def test_the_bundles_say_how_they_are_loaded(versions: tuple[Version, Version], tmp_path: Path) -> None:
    merged, apart = (read_manifest(version.bundle) for version in versions)
    assert merged.loads_with == "AutoModelForSequenceClassification"
    assert apart.loads_with == "peft.PeftModel"
    assert "peft" in load_goldens(versions[1].bundle).made_with
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= apart.files.keys()
    assert not [name for name in merged.files if name.startswith("adapter")]
    published = publish_bundle(versions[1].bundle, tmp_path / "published")
    assert load_bundle(published.directory).info.model_version == apart.model_version
    assert 'PeftModel.from_pretrained(model, DIR + "/adapter")' in (published.directory / "README.md").read_text()
    assert "reference.jsonl" not in published.files  # the records are somebody's data


def test_peft_puts_the_adapter_and_its_head_on_the_base_to_the_same_scores(
    versions: tuple[Version, Version], tmp_path: Path
) -> None:
    base, bundle, headless = versions[0].bundle, versions[1].bundle, tmp_path / "headless"
    shutil.copytree(bundle / "adapter", headless)
    tensors = load_file(headless / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if "score" not in k}, headless / "adapter_model.safetensors")
    edit_json(headless / "adapter_config.json", modules_to_save=None, task_type=None)  # else peft misses it by itself
    command = [sys.executable, "-I", "-c", WITH_PEFT, base, bundle / "goldens.json", bundle / "adapter", headless]
    ran = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, check=True)
    whole, without_head = (
        {name: np.array(scores) for name, scores in answer.items()}
        for answer in json.loads(ran.stdout.splitlines()[-1])
    )
    wanted = np.array(load_goldens(bundle).scores)
    assert np.abs(whole["adapter"] - wanted).max() < TOLERANCE
    assert np.abs(whole["merged"] - wanted).max() < TOLERANCE
    # peft is left with the head of the model below.
    assert np.abs(without_head["adapter"] - wanted).max() > 0.1


def test_an_adapter_that_was_changed_is_refused(versions: tuple[Version, Version], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(versions[1].bundle, tmp_path / "bundle"))
    edit_json(bundle / "adapter" / "adapter_config.json", lora_alpha=32.0)
    with pytest.raises(BundleError, match=r"adapter_config\.json changed"):
        load_bundle(bundle)
    reseal(bundle)
    assert read_manifest(bundle).model_version != read_manifest(versions[1].bundle).model_version
    with pytest.raises(BundleError, match="goldens score differently"):
        load_bundle(bundle)


def test_training_does_not_go_on_from_a_base_without_the_adapter_beside_it(versions: tuple[Version, Version]) -> None:
    with pytest.raises(ModelError, match=r"exported with model\.lora\.export: merged"):
        load_reward_model(versions[1].bundle, dtype=torch.float32, pad_id=0, seed=0)
