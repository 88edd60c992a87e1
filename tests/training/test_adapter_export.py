"""A run with adapters gives the same scores in training, merged, and with the adapter apart: here and in a process that
has never heard of rmray."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from rmray.training.checkpoint import CheckpointStore
from rmray.training.export import export_run
from rmray.training.held_out import sample_records
from rmray.training.model import make_model
from rmray.training.storage import checkpoint_place
from tests.models.bundle.conftest import edit_json, reseal
from tests.training.chain import train_to_bundle
from tests.training.conftest import write_preferences

TOLERANCE = 1e-5
LORA = {"lora": {"r": 4, "alpha": 64.0}}

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


@pytest.fixture(scope="module")
def exported(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run, its scores as trained, and its bundles of both kinds."""
    directory = tmp_path_factory.mktemp("adapters")
    for name, rows in (("train", 24), ("test", 12)):
        write_preferences(directory / f"{name}.jsonl", rows)
    train, test = (directory / f"{name}.jsonl" for name in ("train", "test"))
    # A large rate: adapters that hardly move would hide that they are missing.
    job, merged = train_to_bundle(directory / "run", tiny_base, train, test, model=LORA, optim={"lr": 0.02})
    checkpoint = CheckpointStore(checkpoint_place(job.config)).newest()
    assert checkpoint is not None
    merged = merged.rename(directory / "merged")
    lora = job.config.model.lora
    assert lora is not None
    model = job.config.model.model_copy(update={"lora": lora.model_copy(update={"export": "adapter"})})
    apart = replace(job, config=job.config.model_copy(update={"model": model}))
    records = sample_records(Path(job.source.prepared_dir), job.config, limit=200)
    export_run(apart, checkpoint.model_dir, {"steps": checkpoint.step}, records)
    trained = make_model(job.config, pad_id=job.pad_id, device="cpu", checkpoint_dir=checkpoint.model_dir)
    return {
        "trained": RewardBackbone(trained),
        "merged": merged,
        "apart": (directory / "run" / "bundle").rename(directory / "apart"),
        "left": [path.name for path in (directory / "run").iterdir() if path.name.startswith(".")],
    }


def scores_of(scorer: HeadScorer, bundle: Path, backbone: RewardBackbone | None = None) -> np.ndarray:
    encoded = scorer.encode([golden.request for golden in load_goldens(bundle).items])
    with torch.inference_mode():
        batch = build_batch([e.group for e in encoded if e.group is not None])
        return (backbone or scorer.backbone)(batch).numpy()


def test_trained_merged_and_apart_score_the_same(exported: dict[str, Any], tiny_base: Path) -> None:
    merged, apart = (load_bundle(exported[kind]) for kind in ("merged", "apart"))
    trained = scores_of(merged, exported["merged"], exported["trained"])
    assert np.abs(scores_of(merged, exported["merged"]) - trained).max() < TOLERANCE
    assert np.abs(scores_of(apart, exported["merged"]) - trained).max() < TOLERANCE
    base = load_reward_model(tiny_base, dtype=torch.float32, pad_id=0, seed=0, device="cpu")
    base.score.weight.data.copy_(exported["trained"].model.score.weight)
    headed = scores_of(merged, exported["merged"], RewardBackbone(base))
    assert np.abs(headed - trained).max() > 0.05  # without its adapters it is another model
    assert exported["left"] == []


def test_the_bundles_say_how_they_are_loaded(exported: dict[str, Any], tmp_path: Path) -> None:
    merged, apart = (read_manifest(exported[kind]) for kind in ("merged", "apart"))
    assert merged.loads_with == "AutoModelForSequenceClassification"
    assert apart.loads_with == "peft.PeftModel"
    assert "peft" in load_goldens(exported["apart"]).made_with
    assert merged.reference.hash == apart.reference.hash
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= apart.files.keys()
    assert not [name for name in merged.files if name.startswith("adapter")]
    published = publish_bundle(exported["apart"], tmp_path / "published")
    assert load_bundle(published.directory).info.model_version == apart.model_version
    assert 'PeftModel.from_pretrained(model, DIR + "/adapter")' in (published.directory / "README.md").read_text()
    assert "reference.jsonl" not in published.files  # the records are somebody's data


def test_peft_puts_the_adapter_and_its_head_on_the_base_to_the_same_scores(
    exported: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    bundle, headless = exported["apart"], tmp_path / "headless"
    shutil.copytree(bundle / "adapter", headless)
    tensors = load_file(headless / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if "score" not in k}, headless / "adapter_model.safetensors")
    edit_json(headless / "adapter_config.json", modules_to_save=None, task_type=None)  # else peft misses it by itself
    command = [sys.executable, "-I", "-c", WITH_PEFT, tiny_base, bundle / "goldens.json", bundle / "adapter", headless]
    ran = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, check=True)
    whole, without_head = (
        {name: np.array(scores) for name, scores in answer.items()}
        for answer in json.loads(ran.stdout.splitlines()[-1])
    )
    wanted = np.array(load_goldens(bundle).scores)
    assert np.abs(whole["adapter"] - wanted).max() < TOLERANCE
    assert np.abs(whole["merged"] - wanted).max() < TOLERANCE
    # peft is left with the base's head, which was never trained.
    assert np.abs(without_head["adapter"] - wanted).max() > 0.1


def test_an_adapter_that_was_changed_is_refused(exported: dict[str, Any], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported["apart"], tmp_path / "bundle"))
    edit_json(bundle / "adapter" / "adapter_config.json", lora_alpha=32.0)
    with pytest.raises(BundleError, match=r"adapter_config\.json changed"):
        load_bundle(bundle)
    reseal(bundle)
    assert read_manifest(bundle).model_version != read_manifest(exported["apart"]).model_version
    with pytest.raises(BundleError, match="goldens score differently"):
        load_bundle(bundle)


def test_training_does_not_go_on_from_a_base_without_the_adapter_beside_it(exported: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"exported with model\.lora\.export: merged"):
        load_reward_model(exported["apart"], dtype=torch.float32, pad_id=0, seed=0)
