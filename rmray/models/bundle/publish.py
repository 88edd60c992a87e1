"""Make a directory that is ready for a model hub: the bundle as it is, its card, the report. Called by `rmray export`.

What comes out is a bundle still, of the same model version. Only files that the bundle's manifest names are copied, so
that nothing which happened to lie beside them is ever published. `export.json` lists what was written: a directory
with anything else in it is never replaced.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmray import __version__
from rmray.errors import BundleError, DataError
from rmray.evaluation_file import PLOTS_NAME, REPORT_NAME, load_evaluation
from rmray.models.bundle.card import CardFacts, License, license_of, model_of, write_card
from rmray.models.bundle.card.markdown import public_name
from rmray.models.bundle.export import put_in_place
from rmray.models.bundle.load import check_manifest
from rmray.models.bundle.manifest import (
    CARD_NAME,
    MANIFEST_NAME,
    REFERENCE_NAME,
    BundleManifest,
    check_files,
    read_manifest,
    write_manifest,
)
from rmray.models.bundle.public import public_hashes, public_source

EXPORT_NAME = "export.json"
EXPORT_FORMAT = 1
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
READABLE = (".json", ".md", ".html", ".jinja", ".txt")


@dataclass(frozen=True, slots=True)
class Published:
    """What was written. warnings: sentences on what its maker should look at before others see it."""

    directory: Path
    manifest: BundleManifest
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def publish_bundle(
    bundle_dir: str | Path,
    output: str | Path,
    *,
    evaluation_file: str | Path | None = None,
    report_file: str | Path | None = None,
    plots_dir: str | Path | None = None,
    training: Mapping[str, Any] | None = None,
    license: License | None = None,
    languages: Sequence[str] = (),
    repo: str | None = None,
    overwrite: bool = False,
) -> Published:
    """Write OUTPUT from a bundle.

    evaluation_file: an evaluation.json of this model version. report_file: its page. plots_dir: a folder of PNGs; None
    for `plots` beside the page. training: the record of the run. license: None for the bundle's own. repo: OWNER/NAME
    that the card's code loads from. overwrite: replace an earlier export.
    Raises BundleError: no bundle, a damaged one, or a directory that may not be replaced; DataError: an evaluation of
    another model, or files that are no evaluation, page or pictures.
    """
    bundle, target = Path(bundle_dir), Path(output)
    manifest = read_manifest(bundle)
    check_manifest(bundle, manifest)
    _check_names(bundle, manifest)
    _check_apart(bundle, target)
    evaluation = None
    if evaluation_file is not None:
        evaluation = load_evaluation(Path(evaluation_file))
        model_of(evaluation, manifest.model_version, where=str(evaluation_file))
    extras = {REPORT_NAME: _page(Path(report_file))} if report_file is not None else {}
    extras |= _plots(plots_dir, report_file)
    if clash := sorted({EXPORT_NAME, *extras} & set(manifest.files)):
        raise BundleError(f"the bundle has a file {clash[0]} of its own", where=str(bundle))
    check_output(target, overwrite=overwrite)
    manifest = public_manifest(manifest, license)
    facts = CardFacts(
        evaluation=evaluation,
        training=training,
        repo=repo,
        license=_with_link(license or (license_of(manifest.license) if manifest.license else None), manifest),
        languages=tuple(languages),
        report=report_file is not None,
        plots=tuple(name for name in extras if name != REPORT_NAME),
    )
    names = sorted({*manifest.files, *extras, MANIFEST_NAME, CARD_NAME, EXPORT_NAME})
    work = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        work.mkdir(parents=True)
        write_card(work, manifest, facts)  # first: what is wrong with the evaluation is told before anything is copied
        _copy(bundle, work, manifest, extras)
        write_manifest(work, manifest)
        record = {
            "format": EXPORT_FORMAT,
            "created_by": f"rmray {__version__}",
            "model_version": manifest.model_version,
        }
        text = json.dumps({**record, "files": names}, indent=1)
        (work / EXPORT_NAME).write_text(text + "\n", encoding="utf-8")
        warnings = tuple(_warnings(work, names, bundle))
        put_in_place(work, target, overwrite=overwrite)
    except OSError as error:
        raise BundleError("the export cannot be written", where=str(target), why=str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Published(target, manifest, tuple(names), warnings)


def read_export(directory: Path) -> dict[str, Any]:
    """DIR/export.json. Raises BundleError where the directory is no export, or its record is damaged."""
    try:
        record = json.loads((directory / EXPORT_NAME).read_text(encoding="utf-8"))
        files = record["files"]
        if record["format"] != EXPORT_FORMAT or not all(isinstance(name, str) for name in files):
            raise ValueError(f"format {record['format']!r}, or files without names")
        return dict(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            "there is something already, and it is no export",
            where=str(directory),
            why=f"{EXPORT_NAME}: {error}",
            next_step="choose another directory; --overwrite replaces exports only",
        ) from error


def check_output(directory: Path, *, overwrite: bool) -> None:
    """Raise BundleError where `directory` is in use and may not be replaced: nothing but an export ever is, and none
    that holds a file which `rmray export` did not write."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    written = set(read_export(directory)["files"])
    if not overwrite:
        raise BundleError(
            "there is an export already",
            where=str(directory),
            next_step="choose another directory, or replace this export with --overwrite",
        )
    foreign = sorted(_files_in(directory) - written)
    if foreign:
        raise BundleError(
            f"{len(foreign)} file(s) here were not written by `rmray export`, {foreign[0]} first",
            where=str(directory),
            why="--overwrite would delete them",
            next_step="move them away, or choose another directory",
        )


def public_manifest(manifest: BundleManifest, license: License | None) -> BundleManifest:
    """The manifest without the paths of this machine and without the reference records, which are somebody's data, and
    with the licence that was given. Its version stays: none of these counts for it."""
    return replace(
        manifest,
        name=public_name(manifest.name),
        base_model=public_source(manifest.base_model) if manifest.base_model else "",
        data_hashes=public_hashes(manifest.data_hashes.items()),
        reference=replace(manifest.reference, source=public_name(manifest.reference.source)),
        files={name: digest for name, digest in manifest.files.items() if name != REFERENCE_NAME},
        license=license.shown if license is not None else manifest.license,
    )


def _with_link(license: License | None, manifest: BundleManifest) -> License | None:
    """Where a licence of its own has no link, the text that lies in the bundle is one."""
    texts = [name for name in manifest.files if name.upper().startswith(("LICENSE", "LICENCE"))]
    return replace(license, link=texts[0]) if license and license.name and not license.link and texts else license


def _copy(bundle: Path, work: Path, manifest: BundleManifest, extras: Mapping[str, Path]) -> None:
    check_files(bundle, manifest.files, hashes=False)
    for name, source in [*((name, bundle / name) for name in manifest.files), *extras.items()]:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, work / name)
    try:
        check_files(work, manifest.files)  # of the copy: that is what others get
    except BundleError as error:
        raise BundleError(error.what, where=str(bundle), why=error.why, next_step=error.next_step) from error


def _check_names(bundle: Path, manifest: BundleManifest) -> None:
    for name in manifest.files:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"the bundle names a file outside itself: {name}", where=str(bundle / MANIFEST_NAME))


def _check_apart(bundle: Path, target: Path) -> None:
    source, wanted = bundle.resolve(), target.resolve()
    if source == wanted or source in wanted.parents or wanted in source.parents:
        raise BundleError(
            "the export would lie in the bundle, or the bundle in it",
            where=str(target),
            next_step="choose a directory of its own",
        )


def _page(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            head = file.read(4096).lower()
    except OSError as error:
        raise DataError("the report cannot be read", where=str(path), why=str(error)) from error
    if b"<html" not in head and b"<!doctype html" not in head:
        raise DataError(
            "the report is no HTML page", where=str(path), next_step="give the report.html that `rmray report` writes"
        )
    return path


def _plots(plots_dir: str | Path | None, report_file: str | Path | None) -> dict[str, Path]:
    """Name in the export -> picture. Names keep nothing that a Markdown link would take for its own."""
    if plots_dir is None:
        folder = Path(report_file).parent / PLOTS_NAME if report_file is not None else None
        if folder is None or not folder.is_dir():
            return {}
    else:
        folder = Path(plots_dir)
        if not folder.is_dir():
            raise DataError("no such folder of pictures", where=str(folder))
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png")):
        try:
            with path.open("rb") as file:
                head = file.read(len(PNG_SIGNATURE))
        except OSError as error:  # a folder of this name, too
            raise DataError("the picture cannot be read", where=str(path), why=str(error)) from error
        if head != PNG_SIGNATURE:
            raise DataError("not a PNG picture", where=str(path))
        name = f"{PLOTS_NAME}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', path.name)}"
        if name in found:
            raise DataError(
                f"two pictures would both be {name} in the export",
                where=str(folder),
                why=f"they are called {found[name].name} and {path.name}",
                next_step="rename one of them",
            )
        found[name] = path
    return found


def _files_in(directory: Path) -> set[str]:
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_symlink() or not p.is_dir()}


def _warnings(work: Path, names: Sequence[str], bundle: Path) -> Iterator[str]:
    """Files in which a folder of this machine is written."""
    folders = {str(path) for path in (bundle.resolve().parent, Path.home(), Path.cwd()) if len(path.parts) > 1}
    for name in names:
        if name.endswith(READABLE):
            content = (work / name).read_bytes()
            for folder in sorted(folders):
                if f"{folder}/".encode() in content:
                    yield f"{name} names a folder of this machine: {folder}"
