"""Where a run comes from: the code's git commit, package versions, the machine's kind. Called by `run_dir`; no Ray.

Nothing here keeps a run from being resumed; it is recorded, and shown where it has changed.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("rmray", "torch", "transformers", "tokenizers", "deepspeed", "ray", "numpy", "pyarrow")
GIT_TIMEOUT_S = 5.0


def versions() -> dict[str, str | None]:
    """Of Python, the platform, torch's CUDA and the packages that decide a result; None for what is not there."""
    from torch.version import cuda

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": cuda,
        **{package: _version(package) for package in PACKAGES},
    }


def find_code(package: Path | None = None, directory: Path | None = None) -> dict[str, Any] | None:
    """The git commit of rmray's own checkout, else of the current directory's; None where neither is one.

    {"of": "rmray" or "current directory", "commit": 40 hex digits, "dirty": whether tracked files were changed since,
    None where that takes git too long}. Untracked files don't count: runs may lie in the checkout themselves.
    """
    package = package or Path(__file__).resolve().parents[1]
    # tracked: an rmray installed in a virtual environment lies in somebody else's checkout, perhaps
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        return _commit("rmray", package)
    return _commit("current directory", directory or Path.cwd())


def hub_revision(name: str) -> str | None:
    """The commit of a Hub model that this machine's cache holds as its newest; None for anything else."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(path).parent.name if isinstance(path, str) else None


def _commit(of: str, directory: Path) -> dict[str, Any] | None:
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"of": of, "commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(directory: Path, *words: str) -> str | None:
    """What git prints; None where there is no git, no checkout or no answer in time."""
    # Not GIT_DIR and the like of a hook that may have started us; and no lock on somebody's index.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), "-c", "core.fsmonitor=false", *words],
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
