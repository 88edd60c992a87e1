"""Fixtures that every suite shares: one Ray cluster a session, one tiny base model a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of two processes on two cores each has one
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run, and no deadline: a busy machine must not fail a property.
settings.register_profile("rmray", derandomize=True, deadline=None)
settings.load_profile("rmray")


OWN_CLUSTERS = ("tests/cli/test_local_ray.py", "tests/test_connect.py", "tests/training/test_recovery.py")
"""Modules that start a Ray of their own, in processes of their own."""


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where two processes share the tests, what needs Ray goes to one of them, in which it shares a cluster, and goes
    first, because it takes longest; the rest goes by module, which shares its fixtures."""
    needs_ray = {item.path for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    needs_ray |= {item.path for item in items if item.path.as_posix().endswith(OWN_CLUSTERS)}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in needs_ray else item.path.as_posix()))
    items.sort(key=lambda item: item.path not in needs_ray)


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


TINY_TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it rests for a while in the shade.",
    "Question: what is two plus three? Answer: two plus three is five.",
    "Please write a short and polite answer. Thank you for asking, here is the answer.",
    "The answer is wrong because the question was about the weather and not about the time.",
)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a small Qwen3 base (2 layers, hidden 32, some 320 tokens: byte-level BPE, <pad>, <eos>, chat
    template with one special token for each role). Read-only: the whole session shares it."""
    from rmray.models.tiny_base import build_tiny_base

    return build_tiny_base(
        tmp_path_factory.mktemp("tiny") / "base", TINY_TEXTS * 4, layers=2, hidden=32, vocab_size=400
    )


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_base: Path) -> Any:
    """The tokenizer of `tiny_base`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)
