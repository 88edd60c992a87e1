"""Fixtures that every suite shares: one Ray cluster a session, one tiny base model a session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A small local Ray that the whole session shares: 8 logical CPUs, 256 MiB object store."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=0,
        object_store_memory=256 * 2**20,
        include_dashboard=False,
        logging_level="warning",
    )
    yield
    ray.shutdown()
