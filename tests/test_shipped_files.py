"""Every shipped config parses, and the cluster files agree with the package and with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import rmray
from rmray.config import TrainConfig, load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
CLUSTER_FILES = sorted((ROOT / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_parses(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.data.train


@pytest.mark.parametrize("path", [p for p in CONFIGS if "gpu" in p.stem], ids=lambda p: p.stem)
def test_cluster_configs_train_at_stage_3_in_bfloat16(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.workers.zero_stage == 3
    assert config.model.dtype == "bfloat16"
    assert config.run.storage.startswith("/mnt/shared")


@pytest.mark.parametrize("path", CLUSTER_FILES, ids=lambda p: p.stem)
def test_cluster_file_names_our_image_and_ray(path: Path) -> None:
    text = path.read_text()
    for document in yaml.safe_load_all(text):
        assert document["apiVersion"] == "ray.io/v1"
    ray_version = re.search(r"^ray==(.+)$", constraints(), re.MULTILINE).group(1)  # type: ignore[union-attr]
    assert set(re.findall(r'rayVersion: "(.+)"', text)) == {ray_version}
    assert set(re.findall(r"image: (\S+)", text)) == {f"rmray:{rmray.__version__}"}
    for script, config in re.findall(r"python (jobs/\S+\.py) (jobs/configs/\S+\.yaml)", text):
        assert (ROOT / script).exists()
        assert (ROOT / config).exists()


def test_image_is_built_on_the_same_ray() -> None:
    ray_version = re.search(r"^ray==(.+)$", constraints(), re.MULTILINE).group(1)  # type: ignore[union-attr]
    images = re.findall(r"rayproject/ray:([\d.]+)-", (ROOT / "cluster" / "Dockerfile").read_text())
    assert set(images) == {ray_version}


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = set(re.findall(r"^([\w.-]+)==", constraints().lower(), re.MULTILINE))
    wanted = {
        re.match(r"[\w.-]+", d).group(0).lower()  # type: ignore[union-attr]
        for d in project["dependencies"] + project["optional-dependencies"]["dev"]
    }
    assert wanted <= pinned


def test_version_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == rmray.__version__


def constraints() -> str:
    return (ROOT / "cluster" / "constraints.txt").read_text()
