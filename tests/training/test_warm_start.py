"""A run that goes on from a bundle is told so, reads by the same rules, and is normalised against the same records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rmray.config.train import TrainConfig
from rmray.data.prepared import load_manifest
from rmray.errors import BundleError, ConfigError, DataError, ModelError
from rmray.models.bundle import load_bundle, read_manifest
from rmray.models.bundle.reference import hash_of_requests, load_reference, save_reference
from rmray.models.scorer import score_requests
from rmray.schema import ScoreRequest, TokenIds
from rmray.training.events import read_events
from rmray.training.storage import with_absolute_paths
from rmray.training.warm_start import check_outside, check_rules, named_reference, warm_start_of, warnings
from tests.models.bundle.hand_made import make_bundle
from tests.training.chain import UNFINISHED, Version, write_rows

REQUESTS = [
    ScoreRequest(prompt="Question: ", completions=("yes — já.", "no\n"), id="a"),
    ScoreRequest(prompt=({"role": "user", "content": "Hi"},), completions=("Hello.",), finished=(False,)),
    ScoreRequest(prompt=TokenIds((5, 6)), completions=(TokenIds((7,)),), tokenizer_hash="0" * 16),
]
FIELDS: dict[str, Any] = {"data": {"train": ["any"]}, "model": {"base": "any"}}


def config_with(config: TrainConfig, **data: Any) -> TrainConfig:
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def test_the_new_version_has_the_reference_of_the_old_one(versions: tuple[Version, Version]) -> None:
    old, new = (read_manifest(version.bundle) for version in versions)
    assert new.reference.hash == old.reference.hash
    assert new.reference.source == old.reference.source == "held-out comparisons"
    assert new.reference.mean != old.reference.mean  # of the same records, by another model
    assert (old.warm_start, new.warm_start) == ("", old.model_version)
    assert new.model_version != old.model_version
    kept, handed_on = ((version.bundle / "reference.jsonl").read_bytes() for version in versions)
    assert kept == handed_on


def test_the_new_version_keeps_the_policy_and_the_licence_of_the_old_one(versions: tuple[Version, Version]) -> None:
    for version in versions:
        manifest = read_manifest(version.bundle)
        assert (manifest.unfinished, manifest.license) == (UNFINISHED, "apache-2.0")


def test_another_aggregate_than_the_old_ones_is_told(tmp_path: Path) -> None:
    make_bundle(tmp_path / "old", kind="outcome", objective="outcome", pooling="tokens", aggregate="mean")

    def told(objective: dict[str, str]) -> dict[str, str]:
        fields = {**FIELDS, "model": {"base": str(tmp_path / "old")}, "objective": objective}
        return dict(warnings(TrainConfig.model_validate(fields)))

    assert "aggregate" not in told({"name": "outcome"})
    text = told({"name": "outcome", "aggregate": "min"})["aggregate"]
    for word in ("the mean of a completion's probabilities", "this one the least", "objective.aggregate: mean"):
        assert word in text
    assert "aggregate" not in told({"name": "process"})  # other rules, which are refused


def test_rewards_of_both_are_of_one_scale_over_the_reference(versions: tuple[Version, Version]) -> None:
    for version in versions:
        scorer = load_bundle(version.bundle)
        requests = load_reference(version.bundle, hash=scorer.info.reference)
        assert requests is not None
        rewards = [result.reward for r in score_requests(scorer, requests) for result in r.results]
        assert (np.mean(rewards), np.std(rewards)) == pytest.approx((0, 1), abs=1e-4)


def test_training_goes_on_with_the_weights_and_the_head_of_the_bundle(versions: tuple[Version, Version]) -> None:
    old, new = (load_file(version.bundle / "model.safetensors") for version in versions)
    assert old.keys() == new.keys()
    for name in old:  # the new adapter lies beside the weights of the old version
        assert torch.equal(old[name], new[name]) == (name != "score.weight")
    moved = float((new["score.weight"] - old["score.weight"]).abs().max())
    assert moved < 3.1 * 0.02  # by three steps of AdamW at most, from the old head and not from a fresh one


def test_it_is_told_once_that_it_is_a_warm_start(versions: tuple[Version, Version]) -> None:
    assert not [e for e in read_events(Path(versions[0].job.run_dir)) if e.get("kind") == "warm_start"]
    told = [e for e in read_events(Path(versions[1].job.run_dir)) if e["event"] == "warning"]
    assert [e["kind"] for e in told if e["kind"] in ("warm_start", "reference")] == ["warm_start"]
    old = read_manifest(versions[0].bundle)
    for word in (old.name, old.model_version, "retraining from its base model"):
        assert word in told[0]["message"]


def test_other_records_are_told_to_be_incomparable_and_the_old_ones_may_be_named(
    versions: tuple[Version, Version], tmp_path: Path
) -> None:
    config = versions[1].job.config
    old = read_manifest(versions[0].bundle)
    own, kept = write_rows(tmp_path / "own.jsonl", skip=0, number=4), versions[0].bundle / "reference.jsonl"
    assert [kind for kind, _ in warnings(config_with(config, reference=str(own)))] == ["warm_start", "reference"]
    assert [kind for kind, _ in warnings(config_with(config, reference=str(kept)))] == ["warm_start"]
    named = named_reference(config_with(config, reference=str(own)))
    assert named is not None
    assert (len(named[0]), named[1]) == (4, "own.jsonl")

    # A bundle of an older rmray keeps no records.
    bundle = Path(shutil.copytree(versions[0].bundle, tmp_path / "bundle"))
    (bundle / "reference.jsonl").unlink()
    without = config.model_copy(update={"model": config.model.model_copy(update={"base": str(bundle)})})
    assert named_reference(without) is None
    [_, (kind, text)] = warnings(without)
    assert kind == "reference"
    assert old.reference.hash in text
    assert "data.reference" in text


def test_a_run_from_a_base_is_normalised_against_the_file_that_is_named(tiny_base: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({**FIELDS, "model": {"base": str(tiny_base)}})
    assert warm_start_of(config.model.base) is None
    assert named_reference(config) is None
    assert list(warnings(config)) == []
    named = named_reference(config_with(config, reference=str(write_rows(tmp_path / "fixed.jsonl", skip=0, number=4))))
    assert named is not None
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        named_reference(config_with(config, reference=str(tmp_path / "missing.jsonl")))
    relative = TrainConfig.model_validate({**FIELDS, "data": {"train": ["any"], "reference": "fixed.jsonl"}})
    assert with_absolute_paths(relative, tmp_path).data.reference == str(tmp_path / "fixed.jsonl")


def test_rules_that_read_other_text_are_refused_and_lengths_are_free(versions: tuple[Version, Version]) -> None:
    config, old = versions[1].job.config, read_manifest(versions[0].bundle)
    rules = load_manifest(Path(versions[1].job.source.prepared_dir)).render_rules
    check_rules(old, config, rules)
    check_rules(old, config, rules | {"max_length": 32, "over_length": "truncate_prompt"})
    with pytest.raises(ModelError, match=r"date: 2024-07-26 -> 2026-01-01"):
        check_rules(old, config, rules | {"date": "2026-01-01"})
    with pytest.raises(ModelError, match=r"scores read at: mean -> last"):
        check_rules(replace(old, pooling="mean"), config, rules)


def test_a_run_does_not_replace_the_bundle_it_begins_from(versions: tuple[Version, Version], tmp_path: Path) -> None:
    config = versions[1].job.config  # from the bundle of the first
    check_outside(tmp_path, config)
    with pytest.raises(ConfigError, match=r"another run\.name") as error:
        check_outside(Path(versions[0].job.run_dir), config)
    assert "replace the bundle" in str(error.value)


def test_reference_records_are_kept_exactly_and_checked_against_their_hash(tmp_path: Path) -> None:
    save_reference(tmp_path, REQUESTS)
    assert load_reference(tmp_path, hash=hash_of_requests(REQUESTS)) == REQUESTS
    assert load_reference(tmp_path / "elsewhere", hash="any") is None
    with pytest.raises(BundleError, match="the bundle's reference is 0123"):
        load_reference(tmp_path, hash="0123")
    (tmp_path / "reference.jsonl").write_text(json.dumps({"prompt": "no completions"}) + "\n")
    with pytest.raises(BundleError, match="completions"):
        load_reference(tmp_path, hash=hash_of_requests(REQUESTS))
