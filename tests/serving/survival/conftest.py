"""One Serve with its gateway for these tests, each of which deploys under a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from rmray.errors import BundleError
from tests.models.bundle.conftest import bundle_dir, export, member_dirs, model_dir
from tests.serving.shutdown import shut_serve_down
from tests.serving.survival.load import PacedScorer

__all__ = ["bundle_dir", "export", "member_dirs", "model_dir"]

FAST = 1e6
"""Tokens/s of a scorer whose pace does not matter."""


@pytest.fixture(scope="package")
def serving(ray_cluster: None) -> Iterator[None]:
    from rmray.serving.app.cluster import ensure_http, free_port

    ensure_http(free_port("127.0.0.1"))
    yield
    shut_serve_down()


@pytest.fixture
def deploy_paced(serving: None) -> Callable[..., Any]:
    """`deploy_paced(name, version, tokens_per_s=..., **options)`: a PacedScorer behind a name."""
    from rmray.serving.app import deploy_scorer

    def deploy(name: str, version: str, *, tokens_per_s: float = FAST, **options: Any) -> Any:
        settings = {"cpus": 0.1, "drain_s": 1.5, "start_timeout_s": 60.0, **options}
        return deploy_scorer(partial(PacedScorer, version, tokens_per_s), name=name, model_version=version, **settings)

    return deploy


@pytest.fixture
def deploy_broken(serving: None) -> Callable[[str, str], Any]:
    """`deploy_broken(name, version)`: a version whose replicas refuse to load."""
    from rmray.serving.app import deploy_scorer

    return lambda name, version: deploy_scorer(_refuse, name=name, model_version=version, cpus=0.1)


def _refuse() -> Any:
    raise BundleError("a golden differs", where="golden 3", why="0.5 here, 0.7 in the bundle", next_step="export again")
