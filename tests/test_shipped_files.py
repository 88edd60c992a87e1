"""Every shipped config parses, and the cluster files agree with the package and with each other."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import rmray
from rmray.config import TrainConfig, load_config
from rmray.config.serve import GATEWAY_APP, SERVED_DIR_ENV, ServeConfig

ROOT = Path(__file__).resolve().parents[1]
SERVE_CONFIG = ROOT / "jobs" / "configs" / "serve.yaml"
CONFIGS = sorted({*(ROOT / "jobs" / "configs").glob("*.yaml")} - {SERVE_CONFIG})
CLUSTER_FILES = sorted((ROOT / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_parses(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.data.train


def test_serve_config_parses() -> None:
    config = load_config(ServeConfig, SERVE_CONFIG)
    assert config.bundle is not None
    assert config.options.max_queued_tokens >= 4 * config.options.target_tokens


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


def test_the_service_declares_apps_that_are_there_and_one_place_for_what_is_served() -> None:
    (service,) = yaml.safe_load_all((ROOT / "cluster" / "rayservice.yaml").read_text())
    apps = {app["name"]: app for app in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]}
    assert set(apps) == {GATEWAY_APP, "rmray-models"}
    for app in apps.values():
        module, _, builder = app["import_path"].partition(":")
        assert callable(getattr(import_module(module), builder))
    cluster = service["spec"]["rayClusterConfig"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for container in (pod["template"]["spec"]["containers"][0] for pod in pods):
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        assert variables[SERVED_DIR_ENV] == apps["rmray-models"]["args"]["directory"]


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
