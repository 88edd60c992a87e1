"""The bundle: a model directory that plain transformers loads, with the rules and proofs that make its scores rewards.

`export_bundle` writes one when training ends, `import_bundle` makes one of a published model, `load_bundle` turns one
into a Scorer.
"""

from rmray.models.bundle.ensemble import build_ensemble
from rmray.models.bundle.export import BundleInfo, export_bundle
from rmray.models.bundle.import_model import import_bundle
from rmray.models.bundle.load import load_bundle
from rmray.models.bundle.manifest import BundleManifest, read_manifest
from rmray.models.bundle.reference import reference_statistics

__all__ = [
    "BundleInfo",
    "BundleManifest",
    "build_ensemble",
    "export_bundle",
    "import_bundle",
    "load_bundle",
    "read_manifest",
    "reference_statistics",
]
