"""A shape small enough for every test, and a model of it."""

from __future__ import annotations

from typing import Any

import pytest

from rmray.benchmark.shapes import Shape, build_classifier
from tests.models.bundle.conftest import bundle_dir, export, model_dir

__all__ = ["bundle_dir", "export", "model_dir"]

TINY = Shape(32, 2, 64, 2, 1, 16, 120)


@pytest.fixture(scope="session")
def prototype() -> Any:
    """A plain sequence classifier with random weights. Read-only: rows copy it."""
    return build_classifier(TINY, head_float32=False)


@pytest.fixture
def small_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the peak on small products."""
    monkeypatch.setattr("rmray.benchmark.flops.PEAK_SHAPES", {"cpu": ((64, 64, 64),)})
