"""Load a base model as a reward model. Used by training, the bundle and tests."""

from __future__ import annotations

from rmray.models.tiny_base import build_tiny_base

__all__ = ["build_tiny_base"]
