"""A run's directory: what it holds, whether it may be used, and whether a resume fits it. No Ray, no torch.

RUN/config.yaml        the resolved config
RUN/identity.json      what the run is: config, hashes of data and model, versions
RUN/metrics.jsonl, RUN/tensorboard/, RUN/checkpoints/, RUN/bundle/, RUN/ray/
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmray.config.load import save_config
from rmray.config.train import TrainConfig
from rmray.data.prepared import Manifest
from rmray.errors import RunError

CONFIG_FILE, IDENTITY_FILE = "config.yaml", "identity.json"
PACKAGES = ("rmray", "torch", "transformers", "tokenizers", "deepspeed", "ray", "numpy", "pyarrow")
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json")

# What a run is. The rest (workers, checkpoints, evaluations, where it is stored) may change when it is resumed.
FIXED_SECTIONS = ("model", "objective", "optim")
FREE_FIELDS = (("model", "base"), ("model", "gradient_checkpointing"), ("model", "packed"))


def identify(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """What the run is: its fixed settings, content hashes of data and base model, and the versions it runs on."""
    dumped = config.model_dump(mode="json")
    settings = {
        section: {key: value for key, value in dumped[section].items() if (section, key) not in FREE_FIELDS}
        for section in FIXED_SECTIONS
    }
    return {
        "settings": {"run": {"seed": config.run.seed}, **settings},
        "data": {"prepared_set": manifest.key, "files": {i["path"]: i["sha256"] for i in manifest.inputs}},
        "model": {"base": config.model.base, "hash": model_hash(config.model.base)},
        "versions": {package: _version(package) for package in PACKAGES},
    }


def model_hash(name_or_dir: str) -> str:
    """16 hex digits of a model directory's weights and config; of a Hub id, its name (the Hub keeps the content)."""
    directory = Path(name_or_dir)
    digest = hashlib.sha256()
    if not directory.is_dir():
        digest.update(name_or_dir.encode())
        return digest.hexdigest()[:16]
    for path in sorted(p for pattern in MODEL_FILES for p in directory.glob(pattern)):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps a run from being resumed, one line each: settings, data or base model that are not the same."""
    found = list(_compare(old["settings"], new["settings"]))
    if old["data"]["prepared_set"] != new["data"]["prepared_set"]:
        files = list(_compare(old["data"]["files"], new["data"]["files"]))
        found += [f"data: {line}" for line in files] or ["data: max_length, columns, holdout or tokenizer changed"]
    if old["model"]["hash"] != new["model"]["hash"]:
        found.append(f"model.base: {old['model']['base']} ({old['model']['hash']}) -> "
                     f"{new['model']['base']} ({new['model']['hash']})")  # fmt: skip
    return found


def check_free(run_dir: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise RunError where the directory is in use and neither `resume` nor `overwrite` says what to do with it."""
    if resume and overwrite:
        raise RunError("--resume and --overwrite exclude each other", where=str(run_dir))
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return
    is_run = (run_dir / CONFIG_FILE).exists()
    if not is_run:
        raise RunError(
            "the run directory is in use by something else",
            where=str(run_dir),
            why=f"it holds files but no {CONFIG_FILE}",
            next_step="choose another run.name or run.storage",
        )
    if not resume and not overwrite:
        raise RunError(
            "the run directory is in use",
            where=str(run_dir),
            next_step="add --resume to go on from its newest checkpoint, --overwrite to delete it, or change run.name",
        )


def check_same(run_dir: Path, identity: Mapping[str, Any]) -> None:
    """Raise RunError, with the differences, where the directory's run is not the one that is to be resumed."""
    path = run_dir / IDENTITY_FILE
    if not path.exists():
        return
    changed = differences(json.loads(path.read_text()), identity)
    if changed:
        raise RunError(
            "the run cannot be resumed: it is not the same any more",
            where=str(run_dir),
            why="\n       ".join(changed),
            next_step="undo the changes, or give the changed run another run.name",
        )


def open_run(run_dir: Path, config: TrainConfig, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the directory (emptied first where `overwrite`) and write what the run is.

    Raises RunError where it can't be emptied: training would go on from the checkpoints that were left.
    """
    if overwrite:
        _empty(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir / CONFIG_FILE)
    (run_dir / IDENTITY_FILE).write_text(json.dumps(identity, indent=1))


def _empty(run_dir: Path) -> None:
    """Delete what the directory holds and keep itself: it may be a link to another disk."""
    try:
        for path in run_dir.iterdir() if run_dir.exists() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise RunError(
            "the run directory cannot be emptied",
            where=str(run_dir),
            why=str(error),
            next_step="delete it yourself, or choose another run.name",
        ) from error


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _compare(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {_show(before)} -> {_show(after)}"


def _show(value: Any) -> str:
    return "absent" if value is None else str(value)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
