"""Write an ensemble's bundle: whole bundles in one directory, and how they combine. Called by training and the CLI.

Written under a temporary name in the same parent folder and renamed last, as `export` does it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rmray.errors import BundleError, DataError
from rmray.models.bundle.card import write_card
from rmray.models.bundle.export import BundleInfo, check_target, put_in_place
from rmray.models.bundle.import_model import MAX_REFERENCE, read_reference
from rmray.models.bundle.load import check_manifest, load_head
from rmray.models.bundle.manifest import (
    ENSEMBLE,
    MANIFEST_NAME,
    RMRAY_ONLY,
    BundleManifest,
    EnsembleOf,
    check_files,
    read_manifest,
    sha256_of_file,
    version_of,
    write_manifest,
)
from rmray.models.bundle.members import MEMBER_KIND, check_alike, member_dir, member_name
from rmray.models.bundle.public import public_hashes
from rmray.models.bundle.publish import public_manifest
from rmray.models.bundle.reference import hash_of_requests, load_reference, reference_scores
from rmray.models.bundle.request_json import request_from_json
from rmray.models.combine import Combination, Floats
from rmray.models.ensemble import member_rewards
from rmray.models.reward import Reference, reference_of_scores
from rmray.schema import ScoreRequest


def build_ensemble(
    members: Sequence[str | Path],
    directory: str | Path,
    *,
    name: str,
    reference: Sequence[ScoreRequest],
    combination: Combination | None = None,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> BundleInfo:
    """Make the bundle DIR of scalar bundles, which are copied into it.

    reference: the records that the members' rewards are normalised against; what they combine to is normalised
    against the same ones. combination: None for the mean. overwrite: replace an existing bundle. device: where
    `reference` is scored, by one member after the other, each checked against its goldens first.
    Raises BundleError, naming the member: no sound bundle, or one of another kind, tokenizer, render rules, policy
    for unfinished completions or reference set; records that are not that set; a target that is in use.
    """
    sources, directory = [Path(member) for member in members], Path(directory)
    combination = combination or Combination()
    check_target(directory, overwrite=overwrite)
    manifests = _read_sources(sources)
    _check_reference(reference, manifests[0].reference.hash)
    _check_apart(sources, directory)
    work = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise BundleError("cannot write here", where=str(directory), why=str(error)) from error
    try:
        copied = [_copy_member(source, work, m) for m, source in enumerate(sources)]
        statistics = _statistics(work, copied, reference, combination, torch.device(device))
        ensemble = EnsembleOf(tuple(member.model_version for member in copied), combination)
        manifest = _combined_manifest(name, copied, ensemble, statistics)
        manifest = replace(manifest, files=_all_files(work, copied), model_version=version_of(manifest))
        write_manifest(work, manifest)
        write_card(work, manifest)
        put_in_place(work, directory, overwrite=overwrite)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return BundleInfo(directory, manifest, 0)


def reference_of_members(members: Sequence[str | Path], path: str | Path | None = None) -> list[ScoreRequest]:
    """The members' reference records: of the file `path`, or where it is None those that the first one keeps.

    path: what `rmray import --reference` took, or a bundle's own `reference.jsonl`. Raises DataError where there is
    none, or it cannot be read, BundleError where the first member's are damaged.
    """
    if path is not None:
        return _read_requests_file(Path(path))
    first = Path(members[0])
    kept = load_reference(first, hash=read_manifest(first).reference.hash)
    if kept is None:
        raise DataError(
            "the members' reference records are needed, and their bundles do not hold them",
            where=str(first),
            why="what members combine to is normalised against the records that they are normalised against",
            next_step="give the file with --reference",
        )
    return kept


def _read_requests_file(path: Path) -> list[ScoreRequest]:
    """Requests as a bundle keeps them, a line each; of any other file the rows, as `rmray import` reads it."""
    try:
        with path.open(encoding="utf-8") as lines:
            return [request_from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return read_reference(path, columns=None, limit=MAX_REFERENCE)


def _read_sources(sources: Sequence[Path]) -> list[BundleManifest]:
    if not sources:
        raise BundleError("an ensemble needs a member at least", next_step="name the bundles to combine")
    manifests = [read_manifest(source) for source in sources]
    for source, manifest in zip(sources, manifests, strict=True):
        check_manifest(source, manifest)
        if manifest.kind != MEMBER_KIND:
            raise BundleError(
                f"the bundle is of the kind {manifest.kind!r}, and an ensemble is made of {MEMBER_KIND} models",
                where=str(source),
                next_step="leave it out" if manifest.ensemble is None else "name its members instead",
            )
    names = [f"member {m} ({source})" for m, source in enumerate(sources)]
    check_alike(manifests, names, where="members")
    return manifests


def _check_reference(reference: Sequence[ScoreRequest], expected: str) -> None:
    found = hash_of_requests(reference)
    if found != expected:
        raise BundleError(
            f"the {len(reference)} reference records are {found}, and the members' are {expected}",
            where="reference",
            why="members' rewards and what they combine to would be of two scales",
            next_step="give the records that the members were normalised against",
        )


def _check_apart(sources: Sequence[Path], directory: Path) -> None:
    target = directory.resolve()
    for source in sources:
        if target == source.resolve() or target in source.resolve().parents or source.resolve() in target.parents:
            raise BundleError(
                "the ensemble would replace its member, or lie in it",
                where=str(source),
                next_step="choose a directory of its own",
            )


def _copy_member(source: Path, work: Path, number: int) -> BundleManifest:
    """Copy the files that the member's manifest names, and the manifest without this machine's paths."""
    manifest = public_manifest(read_manifest(source), None)
    target = member_dir(work, number)
    check_files(source, manifest.files, hashes=False)
    for name in manifest.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    write_manifest(target, manifest)
    return manifest


def _statistics(
    work: Path,
    members: Sequence[BundleManifest],
    reference: Sequence[ScoreRequest],
    combination: Combination,
    device: torch.device,
) -> Reference:
    """Of what the members' rewards combine to. One member is in memory at a time."""
    columns: list[list[float]] = []
    num_failed = 0
    for m, member in enumerate(members):
        scorer = load_head(member_dir(work, m), member, device=device, dtype=torch.float32, check=True)
        scores, num_failed = reference_scores(scorer, reference)
        columns.append(scores)
    raw_NM: Floats = np.array(columns, dtype=np.float64).T
    combined_N = combination.combine(member_rewards(raw_NM, [member.reference for member in members]))
    first = members[0].reference
    return reference_of_scores(combined_N.tolist(), hash=first.hash, source=first.source, num_failed=num_failed)


def _all_files(work: Path, members: Sequence[BundleManifest]) -> dict[str, str]:
    """Name -> sha256 of every file of every member, their manifests among them."""
    files = {f"{member_name(m)}/{n}": digest for m, member in enumerate(members) for n, digest in member.files.items()}
    manifests = [f"{member_name(m)}/{MANIFEST_NAME}" for m in range(len(members))]
    return files | {name: sha256_of_file(work / name) for name in manifests}


def _combined_manifest(
    name: str, members: Sequence[BundleManifest], ensemble: EnsembleOf, reference: Reference
) -> BundleManifest:
    def told(of: Callable[[BundleManifest], str]) -> str:
        return ", ".join(dict.fromkeys(map(of, members)))

    licenses = {member.license for member in members}
    first = members[0]
    return BundleManifest(
        name=name,
        kind=ENSEMBLE,
        objective=told(lambda member: member.objective),
        pooling=told(lambda member: member.pooling),
        loads_with=RMRAY_ONLY,
        head=told(lambda member: member.head),
        head_trained=True,
        dtype=told(lambda member: member.dtype),
        render_rules=first.render_rules,
        tokenizer_hash=first.tokenizer_hash,
        pad=first.pad,
        unfinished=first.unfinished,
        reference=reference,
        base_model=told(lambda member: member.base_model),
        data_hashes=public_hashes(sorted({item for member in members for item in member.data_hashes.items()})),
        metrics={},
        license=licenses.pop() if len(licenses) == 1 else None,
        files={},
        model_version="",
        ensemble=ensemble,
    )
