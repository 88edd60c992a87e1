"""Training an ensemble: which runs, what is trained again, and the bundle and page of all; no Ray, no training."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rmray.config.train import TrainConfig
from rmray.data.render import RenderRules
from rmray.data.tokenizer import load_tokenizer, tokenizer_hash
from rmray.errors import ConfigError, RunError, TrainingError
from rmray.models.bundle import export_bundle, load_bundle, read_manifest
from rmray.models.bundle.reference import hash_of_requests
from rmray.models.scorer import score_requests
from rmray.training import ensemble
from rmray.training.ensemble import train_ensemble
from rmray.training.ensemble_plan import combination_of, plan_members, print_ensemble
from rmray.training.export import reference_requests
from rmray.training.held_out import sample_records
from rmray.training.repeats import run_dir_of
from rmray.training.run_dir import differences
from rmray.training.seeds import plan_seeds
from rmray.training.sweep_plan import Trial, plan_trials
from tests.data.prepared_sets import random_rows, write_prepared
from tests.models.bundle.conftest import save_classifier
from tests.models.bundle.members import make_member
from tests.training.conftest import write_preferences
from tests.training.finished import begin, identity_of, make_config, make_metrics


def test_members_are_the_runs_that_seeds_makes(tmp_path: Path) -> None:
    config = make_config(tmp_path, run={"seed": 5}, ensemble={"members": 3, "combine": "min"})
    members = plan_members(config)
    single = make_config(tmp_path, run={"seed": 5})
    assert members == plan_seeds(single, 3)
    assert differences(identity_of(config), identity_of(members[1])) == ["run.seed: 5 -> 6"]
    assert str(combination_of(config)) == "min"


def test_who_trains_one_model_refuses_an_ensemble(tmp_path: Path) -> None:
    from rmray.training.trainer import train

    config = make_config(tmp_path, ensemble={"members": 2})
    for refuse in (lambda: plan_seeds(config, 2), lambda: plan_trials(config, (1e-5, 1e-4), 1), lambda: train(config)):
        with pytest.raises(ConfigError, match="ensemble of 2"):
            refuse()
    with pytest.raises(ConfigError, match="no ensemble"):
        plan_members(make_config(tmp_path))


@dataclass
class Workplace:
    """Two finished bundles that stand for what members train to, and a prepared set with its config."""

    config: TrainConfig
    prepared_dir: Path
    trained: Sequence[Path]
    fail: set[str] = field(default_factory=set)
    given: list[list[tuple[str, bool]]] = field(default_factory=list)

    def run_trials(
        self, trials: Sequence[Trial], directory: Path, *, at_once: int, overwrite: bool
    ) -> dict[str, Mapping[str, Any] | str]:
        self.given.append([(trial.config.run.name, trial.resume) for trial in trials])
        results: dict[str, Mapping[str, Any] | str] = {}
        for trial in trials:
            name, run_dir = trial.config.run.name, run_dir_of(trial.config)
            if name in self.fail:
                results[name] = "out of memory"
                continue
            if not run_dir.exists():
                begin(trial.config)
            shutil.rmtree(run_dir / "bundle", ignore_errors=True)
            shutil.copytree(self.trained[trial.config.run.seed % 2], run_dir / "bundle")
            results[name] = make_metrics(0.7)
        return results


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    directory = tmp_path_factory.mktemp("ensemble")
    pairs = directory / "pairs.jsonl"
    write_preferences(pairs, 24)
    tokenizer = load_tokenizer(str(tiny_base))
    rules = RenderRules.for_tokenizer(tokenizer, max_length=64)
    file_hash = hashlib.sha256(pairs.read_bytes()).hexdigest()[:16]
    manifest = write_prepared(directory / "set", random_rows(24, file_hash=file_hash))
    manifest = replace(manifest, render_rules=asdict(rules), tokenizer_hash=tokenizer_hash(tokenizer))
    manifest.save(directory / "set")
    config = make_config(
        directory / "runs", data={"train": [str(pairs)], "holdout": None, "max_length": 64}, ensemble={"members": 2},
        evaluate={"report_comparisons": 10},
    )  # fmt: skip
    records = sample_records(directory / "set", config, limit=200)
    reference = reference_requests(records, manifest.tokenizer_hash)
    model = save_classifier(tiny_base, directory / "model")
    first = directory / "first"
    export_bundle(
        model, first, name="tiny-seed-0", objective="bradley_terry", pooling="last", rules=rules, reference=reference,
        metrics=make_metrics(0.7),
    )  # fmt: skip
    second = make_member(first, directory / "second", seed=1, reference=reference)
    return Workplace(config, directory / "set", [first, second])


@pytest.fixture
def work(made: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    from rmray.data.prepared import load_manifest

    run = made.config.run.model_copy(update={"storage": str(tmp_path / "runs")})
    work = replace(made, config=made.config.model_copy(update={"run": run}), fail=set(), given=[])
    prepared = SimpleNamespace(directory=made.prepared_dir, manifest=load_manifest(made.prepared_dir))
    node = {"Alive": True, "NodeID": "0", "Resources": {"CPU": 8.0}}
    here = SimpleNamespace(
        nodes=lambda: [node], remote=lambda **_: lambda task: SimpleNamespace(remote=task), get=lambda value: value
    )
    monkeypatch.setattr(ensemble, "ray", here)
    monkeypatch.setattr(ensemble, "connected", contextlib.nullcontext)
    monkeypatch.setattr(ensemble, "run_trials", work.run_trials)
    monkeypatch.setattr(ensemble, "check_base", lambda base, pooling: None)
    monkeypatch.setattr(ensemble, "check_seen_by_all", lambda directory, nodes: [])
    monkeypatch.setattr(ensemble, "prepare_for", lambda config: prepared)
    monkeypatch.setattr(ensemble, "identify", lambda config, manifest: identity_of(config))
    return work


def test_finished_members_are_kept_and_combined_once(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    config, runs = work.config, Path(work.config.run.storage)
    work.fail = {"tiny-seed-1"}
    with pytest.raises(TrainingError, match="1 of 2 members failed") as caught:
        train_ensemble(config)
    assert "tiny-seed-1: out of memory" in str(caught.value)
    assert not (runs / "tiny" / "bundle").exists()

    work.fail = set()
    with pytest.raises(RunError, match="--resume"):
        train_ensemble(config)
    outcome = train_ensemble(config, resume=True)
    assert work.given == [[("tiny-seed-0", False), ("tiny-seed-1", False)], [("tiny-seed-1", False)]]

    versions = [read_manifest(trained).model_version for trained in work.trained]
    assert [member.model_version for member in outcome.members] == versions
    scorer = load_bundle(outcome.bundle_dir)
    assert (scorer.info.model_version, scorer.info.name) == (outcome.model_version, "tiny")
    records = sample_records(work.prepared_dir, config, limit=5)
    results = score_requests(scorer, reference_requests(records, scorer.info.tokenizer_hash))[0].results
    assert all(len(result.member_scores or ()) == 2 for result in results)
    page = (runs / "tiny" / "report.html").read_text()
    assert "Members and disagreement" in page
    print_ensemble(outcome)
    assert "0.7000" in capsys.readouterr().out
    assert [member["model_version"] for member in json.loads(json.dumps(outcome.to_json()))["members"]] == versions

    written = (outcome.bundle_dir / "rmray.json").stat().st_mtime_ns
    assert train_ensemble(config, resume=True).model_version == outcome.model_version
    assert (len(work.given), (outcome.bundle_dir / "rmray.json").stat().st_mtime_ns) == (2, written)

    # Another rule combines anew and trains nothing; a damaged member is made again, and a changed config refused.
    least = config.model_copy(update={"ensemble": config.ensemble.model_copy(update={"combine": "min"})})
    assert train_ensemble(least, resume=True).model_version != outcome.model_version
    assert len(work.given) == 2
    (runs / "tiny-seed-0" / "bundle" / "goldens.json").write_text("{}")
    train_ensemble(least, resume=True)
    assert work.given[2:] == [[("tiny-seed-0", True)]]
    faster = config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 1e-3})})
    with pytest.raises(RunError, match="not the same"):
        train_ensemble(faster, resume=True)


def test_overwriting_starts_every_member_over(work: Workplace) -> None:
    train_ensemble(work.config)
    train_ensemble(work.config, overwrite=True)
    assert work.given == [[("tiny-seed-0", False), ("tiny-seed-1", False)]] * 2


def test_no_member_starts_where_one_is_in_the_way(work: Workplace) -> None:
    begin(plan_members(work.config)[1])
    with pytest.raises(RunError, match="in use"):
        train_ensemble(work.config)
    assert work.given == []


def test_the_reference_slice_does_not_depend_on_the_seed(work: Workplace) -> None:
    slices = [
        hash_of_requests(reference_requests(sample_records(work.prepared_dir, member, limit=200), "t"))
        for member in plan_members(work.config)
    ]
    assert len(set(slices)) == 1
