"""The session's small bundle, made where bundles are tested."""

from tests.models.bundle.conftest import bundle_dir, export, model_dir

__all__ = ["bundle_dir", "export", "model_dir"]
