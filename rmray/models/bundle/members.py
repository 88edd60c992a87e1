"""The members of an ensemble's bundle: where they lie, and whether they fit together. Used by load and ensemble.

DIR/members/0, DIR/members/1, ...   each a whole bundle, whose rmray.json the ensemble's hashes
No tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rmray.errors import BundleError
from rmray.models.bundle.manifest import MANIFEST_NAME, BundleManifest, EnsembleOf, check_files, read_manifest

MEMBERS_DIR = "members"
MEMBER_KIND = "scalar"

# What members must have in common, as readers call it: one encoding serves all, and their rewards are of one scale.
COMMON: dict[str, Callable[[BundleManifest], Any]] = {
    "tokenizer": lambda manifest: manifest.tokenizer_hash,
    "render rules": lambda manifest: manifest.render_rules,
    "policy for unfinished completions": lambda manifest: manifest.unfinished,
    "reference set": lambda manifest: manifest.reference.hash,
}


def member_name(number: int) -> str:
    """A member's folder within the ensemble's."""
    return f"{MEMBERS_DIR}/{number}"


def member_dir(directory: Path, number: int) -> Path:
    return directory / MEMBERS_DIR / str(number)


def read_members(directory: Path, manifest: BundleManifest, ensemble: EnsembleOf) -> list[BundleManifest]:
    """The members' manifests. Raises BundleError, naming the member: one that is missing, damaged, another one than
    the ensemble was made of, or unlike the others."""
    members = []
    for number, version in enumerate(ensemble.members):
        folder = member_dir(directory, number)
        if not (folder / MANIFEST_NAME).is_file():
            raise BundleError(
                f"the ensemble lacks member {number} of {len(ensemble.members)}",
                where=str(directory),
                why=f"there is no {member_name(number)}/{MANIFEST_NAME}",
                next_step="copy the bundle again from where it was made",
            )
        member = read_manifest(folder)
        if member.model_version != version:
            raise BundleError(
                f"member {number} is version {member.model_version}, and the ensemble was made with {version}",
                where=str(folder),
                next_step="copy the bundle again, or combine the members anew with `rmray ensemble`",
            )
        members.append(member)
    check_alike([manifest, *members], ["the ensemble", *(f"member {n}" for n in range(len(members)))], where=directory)
    names = [f"{member_name(number)}/{MANIFEST_NAME}" for number in range(len(members))]
    if unknown := [name for name in names if name not in manifest.files]:
        raise BundleError(
            f"the ensemble has no hash of {', '.join(unknown)}",
            where=str(directory / MANIFEST_NAME),
            next_step="combine the members anew with `rmray ensemble`",
        )
    check_files(directory, {name: manifest.files[name] for name in names})
    return members


def check_alike(manifests: Sequence[BundleManifest], names: Sequence[str], *, where: Path | str) -> None:
    """Raise BundleError where one differs from the first in what members have in common. names: of each, for people."""
    for manifest, name in zip(manifests[1:], names[1:], strict=True):
        if manifest.kind != MEMBER_KIND:
            raise BundleError(
                f"{name} is of the kind {manifest.kind!r}, and an ensemble is made of {MEMBER_KIND} models",
                where=str(where),
                next_step="leave it out",
            )
        for what, of in COMMON.items():
            theirs, first = of(manifest), of(manifests[0])
            if theirs != first:
                raise BundleError(
                    f"{name} differs from {names[0]} in its {what}",
                    where=str(where),
                    why=_difference(first, theirs),
                    next_step="combine models that were trained on one prepared set, or imported with one reference "
                    "file and one max_length",
                )


def _difference(first: Any, other: Any) -> str:
    if isinstance(first, dict) and isinstance(other, dict):
        keys = sorted(k for k in first.keys() | other.keys() if first.get(k) != other.get(k))
        return "; ".join(f"{k}: {other.get(k)!r} against {first.get(k)!r}" for k in keys)
    return f"{other} against {first}"
