"""Which commit a run is said to come from, in checkouts made for the test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rmray.training import provenance
from rmray.training.provenance import find_code, hub_revision


def git(directory: Path, *words: str) -> str:
    command = ["git", "-C", str(directory), "-c", "user.name=a", "-c", "user.email=a@b.example", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def checkout(directory: Path, *names: str) -> Path:
    directory.mkdir()
    git(directory, "init", "-q")
    for name in names:
        (directory / name).write_text("")
        git(directory, "add", name)
    git(directory, "commit", "-qm", "first", "--allow-empty")
    return directory


def test_rmrays_own_checkout_comes_first(tmp_path: Path) -> None:
    package, here = checkout(tmp_path / "rmray", "__init__.py"), checkout(tmp_path / "here", "job.py")
    commit = git(package, "rev-parse", "HEAD")
    assert find_code(package, here) == {"of": "rmray", "commit": commit, "dirty": False}
    (package / "runs.txt").write_text("untracked")
    assert find_code(package, here) == {"of": "rmray", "commit": commit, "dirty": False}
    (package / "__init__.py").write_text("changed = True")
    assert find_code(package, here) == {"of": "rmray", "commit": commit, "dirty": True}


def test_an_installed_rmray_gives_way_to_the_current_directory(tmp_path: Path) -> None:
    here = checkout(tmp_path / "here", "job.py")
    package = here / ".venv" / "rmray"  # inside a checkout, and not of it
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    found = find_code(package, here)
    assert found == {"of": "current directory", "commit": git(here, "rev-parse", "HEAD"), "dirty": False}


def test_no_checkout_no_git_and_a_hanging_one_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, here = tmp_path / "plain", checkout(tmp_path / "here", "job.py")
    plain.mkdir()
    assert find_code(plain, plain) is None

    def hang(*words: object, timeout: float, **options: object) -> None:
        raise subprocess.TimeoutExpired("git", timeout)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", hang)
        assert find_code(here, here) is None
    monkeypatch.setenv("PATH", str(plain))
    assert find_code(here, here) is None


def test_a_status_that_takes_too_long_leaves_it_open_whether_anything_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, run = checkout(tmp_path / "here", "job.py"), subprocess.run

    def slow(command: list[str], **options: object) -> object:
        if "status" in command:
            raise subprocess.TimeoutExpired("git", 5)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(provenance.subprocess, "run", slow)
    found = find_code(tmp_path, here)
    assert found is not None
    assert found["dirty"] is None


def test_variables_of_a_git_hook_do_not_lead_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = checkout(tmp_path / "here", "job.py"), checkout(tmp_path / "other", "a", "b")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    found = find_code(tmp_path, here)
    monkeypatch.delenv("GIT_DIR")
    assert found is not None
    assert found["commit"] == git(here, "rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["org/never-downloaded", "/a/directory", "no/hub/id"])
def test_only_a_cached_hub_model_has_a_revision(name: str) -> None:
    assert hub_revision(name) is None


def test_the_revision_of_a_cached_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--org--base" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--org--base" / "refs").mkdir()
    (tmp_path / "models--org--base" / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub_revision("org/base") == commit
