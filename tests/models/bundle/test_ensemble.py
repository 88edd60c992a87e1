"""A bundle of bundles: what it holds, what it scores, and every way in which it is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmray.data.render import Renderer
from rmray.errors import BundleError, DataError
from rmray.models.bundle import build_ensemble, load_bundle, read_manifest
from rmray.models.bundle.ensemble import reference_of_members
from rmray.models.bundle.export import sealed
from rmray.models.bundle.manifest import check_files, sha256_of_file, write_manifest
from rmray.models.bundle.publish import publish_bundle
from rmray.models.combine import Combination
from rmray.models.ensemble import EnsembleScorer
from rmray.models.remote import open_remote
from rmray.models.scorer import score_requests
from rmray.schema import ScoreRequest
from tests.models.bundle.conftest import GOLDENS, REFERENCE, edit_json


@pytest.fixture
def copied(ensemble_dir: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(ensemble_dir, tmp_path / "ensemble"))


@pytest.fixture
def member_copy(member_dirs: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(member_dirs[1], tmp_path / "member"))


def refused(directory: Path, message: str, **options: object) -> str:
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(directory, **options)
    return str(caught.value)


def rewards(scorer: object, requests: list[ScoreRequest]) -> list[float]:
    return [r.reward for response in score_requests(scorer, requests) for r in response.results]


def test_it_scores_what_its_members_score(member_dirs: list[Path], ensemble_dir: Path) -> None:
    scorer = load_bundle(ensemble_dir)
    assert isinstance(scorer, EnsembleScorer)
    assert (scorer.info.kind, scorer.info.name) == ("ensemble", "three")
    alone = np.array([rewards(load_bundle(d, check=False), GOLDENS) for d in member_dirs]).T
    found = [r for response in score_requests(scorer, GOLDENS) for r in response.results]
    assert [r.member_scores for r in found] == [pytest.approx(tuple(row), abs=1e-9) for row in alone]
    assert [r.raw for r in found] == pytest.approx(alone.mean(axis=1).tolist(), abs=1e-9)
    assert [r.disagreement for r in found] == pytest.approx(alone.std(axis=1).tolist(), abs=1e-9)
    assert alone.std(axis=1).min() > 0.01, "members that agree would show nothing"
    assert {(r.model_version, r.reference) for r in found} == {(scorer.info.model_version, scorer.info.reference)}


def test_its_rewards_are_normalised_on_the_reference_set(ensemble_dir: Path) -> None:
    got = rewards(load_bundle(ensemble_dir, check=False), REFERENCE)
    assert (np.mean(got), np.std(got)) == pytest.approx((0, 1), abs=1e-6)
    assert read_manifest(ensemble_dir).reference.num_scores == len(got)


def test_one_member_is_itself_again(member_dirs: list[Path], tmp_path: Path) -> None:
    build_ensemble(member_dirs[1:2], tmp_path / "one", name="one", reference=REFERENCE)
    one, member = (rewards(load_bundle(d, check=False), REFERENCE) for d in (tmp_path / "one", member_dirs[1]))
    assert np.argsort(one).tolist() == np.argsort(member).tolist()
    slope, shift = np.polyfit(member, one, 1)
    assert one == pytest.approx([slope * r + shift for r in member], abs=1e-9)
    assert (slope, shift) == pytest.approx((1, 0), abs=1e-5)


def test_the_version_follows_from_members_rule_and_reference(
    member_dirs: list[Path], ensemble_dir: Path, tmp_path: Path
) -> None:
    info = build_ensemble(
        member_dirs, tmp_path / "min", name="three", reference=REFERENCE, combination=Combination("min")
    )
    first = read_manifest(ensemble_dir)
    assert info.model_version != first.model_version
    assert info.manifest.ensemble == replace(first.ensemble, combination=Combination("min"))
    assert first.ensemble.members == tuple(read_manifest(d).model_version for d in member_dirs)
    scorer = load_bundle(tmp_path / "min")
    assert all(r.raw == min(r.member_scores) for a in score_requests(scorer, GOLDENS) for r in a.results)


def test_every_file_of_every_member_is_hashed_and_each_member_is_whole(ensemble_dir: Path) -> None:
    manifest = read_manifest(ensemble_dir)
    check_files(ensemble_dir, manifest.files)
    written = {p.relative_to(ensemble_dir).as_posix() for p in ensemble_dir.rglob("*") if p.is_file()}
    assert written == {*manifest.files, "rmray.json", "README.md"}
    assert rewards(load_bundle(ensemble_dir / "members" / "2"), GOLDENS)
    card = (ensemble_dir / "README.md").read_text()
    assert "An ensemble of 3 reward models" in card
    assert "members/0" in card


def test_one_encoding_serves_all(ensemble_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load_bundle(ensemble_dir, check=False)
    calls = []
    render = Renderer.render_paths
    monkeypatch.setattr(Renderer, "render_paths", lambda self, *a, **k: calls.append(1) or render(self, *a, **k))
    score_requests(scorer, GOLDENS)
    assert len(calls) == len(GOLDENS)


# Refused at load


def test_a_missing_member_is_named(copied: Path) -> None:
    shutil.rmtree(copied / "members" / "1")
    assert str(copied) in refused(copied, "lacks member 1 of 3")


def test_a_damaged_member_is_named(copied: Path) -> None:
    with (copied / "members" / "2" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    assert str(copied / "members" / "2") in refused(copied, "model.safetensors changed")


def test_a_members_manifest_is_hashed(copied: Path) -> None:
    path = copied / "members" / "0" / "rmray.json"
    reference = json.loads(path.read_text())["reference"]
    edit_json(path, reference={**reference, "mean": reference["mean"] + 1})
    refused(copied, "members/0/rmray.json changed", check=False)


def test_another_member_in_its_place_is_refused(copied: Path, member_dirs: list[Path]) -> None:
    shutil.rmtree(copied / "members" / "1")
    shutil.copytree(member_dirs[2], copied / "members" / "1")
    assert "members/1" in refused(copied, "member 1 is version .*, and the ensemble was made with")


def test_an_edited_rule_is_refused(copied: Path) -> None:
    raw = json.loads((copied / "rmray.json").read_text())
    edit_json(copied / "rmray.json", ensemble={**raw["ensemble"], "combination": {"rule": "min", "k": 1.0}})
    refused(copied, "its contents make it")


@pytest.mark.parametrize(
    "ensemble", [None, {}, {"members": [], "combination": {}}, {"members": ["a"], "combination": {"rule": "median"}}]
)
def test_a_damaged_record_is_refused(copied: Path, ensemble: object) -> None:
    edit_json(copied / "rmray.json", ensemble=ensemble)
    refused(copied, "manifest is damaged")


def test_goldens_of_every_member_are_checked(copied: Path) -> None:
    """Even where somebody made all hashes fit."""
    goldens = copied / "members" / "1" / "goldens.json"
    raw = json.loads(goldens.read_text())
    raw["items"][0]["scores"][0][0] += 0.1
    goldens.write_text(json.dumps(raw))
    member = copied / "members" / "1"
    write_manifest(member, sealed(member, replace(read_manifest(member), files={})))
    manifest = read_manifest(copied)
    name = "members/1/rmray.json"
    write_manifest(copied, replace(manifest, files={**manifest.files, name: sha256_of_file(copied / name)}))
    assert "members/1" in refused(copied, "goldens score differently")


# Refused at creation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer_hash": "another"}, "differs from member 0 .* in its tokenizer"),
        ({"render_rules": {"max_length": 7}}, "differs from member 0 .* in its render rules"),
        ({"reference": {"hash": "another"}}, "differs from member 0 .* in its reference set"),
        ({"kind": "judge"}, "kind 'judge'"),
    ],
)
def test_members_that_do_not_fit_are_named(
    member_dirs: list[Path], member_copy: Path, tmp_path: Path, change: dict, message: str
) -> None:
    raw = json.loads((member_copy / "rmray.json").read_text())
    merged = {k: {**raw[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    edit_json(member_copy / "rmray.json", **merged)
    write_manifest(member_copy, sealed(member_copy, read_manifest(member_copy)))
    with pytest.raises(BundleError, match=message) as caught:
        build_ensemble([member_dirs[0], member_copy], tmp_path / "e", name="e", reference=REFERENCE)
    assert str(member_copy) in str(caught.value)
    assert not (tmp_path / "e").exists()


def test_other_reference_records_are_refused(member_dirs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"the 29 reference records are .*, and the members' are"):
        build_ensemble(member_dirs, tmp_path / "e", name="e", reference=REFERENCE[1:])
    with pytest.raises(BundleError, match="needs a member"):
        build_ensemble([], tmp_path / "e", name="e", reference=REFERENCE)


def test_a_broken_member_leaves_nothing_behind(member_dirs: list[Path], member_copy: Path, tmp_path: Path) -> None:
    (member_copy / "goldens.json").write_text("{}")
    target = tmp_path / "made" / "e"
    with pytest.raises(BundleError, match=r"goldens\.json changed"):
        build_ensemble([member_dirs[0], member_copy], target, name="e", reference=REFERENCE)
    assert list(target.parent.iterdir()) == []


def test_an_ensemble_is_no_member_and_a_bundle_is_replaced_only_when_asked(
    ensemble_dir: Path, member_dirs: list[Path], member_copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="kind 'ensemble'") as caught:
        build_ensemble([ensemble_dir], tmp_path / "e", name="e", reference=REFERENCE)
    assert "name its members" in str(caught.value)
    with pytest.raises(BundleError, match="there is a bundle already"):
        build_ensemble(member_dirs, member_copy, name="e", reference=REFERENCE)
    with pytest.raises(BundleError, match="replace its member"):
        build_ensemble([member_copy], member_copy, name="e", reference=REFERENCE, overwrite=True)


def test_reference_records_come_from_a_file_or_the_first_member(member_copy: Path, tmp_path: Path) -> None:
    assert reference_of_members([member_copy]) == REFERENCE
    (member_copy / "reference.jsonl").unlink()  # as `rmray export` leaves it out
    with pytest.raises(DataError, match="do not hold them") as caught:
        reference_of_members([member_copy])
    assert "--reference" in str(caught.value)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    assert reference_of_members([member_copy], rows) == [ScoreRequest(prompt="p", completions=("a", "b"))]
    with pytest.raises(DataError):
        reference_of_members([member_copy], tmp_path / "nowhere.jsonl")


def test_an_export_is_the_ensemble_still(ensemble_dir: Path, tmp_path: Path) -> None:
    published = publish_bundle(ensemble_dir, tmp_path / "export")
    assert published.warnings == ()
    assert {"members/0/model.safetensors", "members/2/rmray.json"} <= set(published.files)
    assert not any("reference.jsonl" in name for name in published.files)  # users' data
    again = load_bundle(tmp_path / "export")
    assert again.info.model_version == read_manifest(ensemble_dir).model_version
    assert rewards(again, GOLDENS) == rewards(load_bundle(ensemble_dir, check=False), GOLDENS)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "AutoModelForSequenceClassification" not in card
    assert "library_name: rmray" in card


def test_a_server_has_one_model(ensemble_dir: Path) -> None:
    with pytest.raises(BundleError, match="an ensemble"):
        open_remote("http://127.0.0.1:9", ensemble_dir)
