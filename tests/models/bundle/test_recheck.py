"""A loaded bundle is checked again by its goldens: silent while it computes what it did, told once it does not."""

from pathlib import Path

import pytest
import torch

from rmray.errors import BundleError
from rmray.models.bundle import load_bundle
from rmray.models.bundle.recheck import recheck


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_bundle_whose_weights_change_in_memory_is_found(bundle_dir: Path, dtype: torch.dtype) -> None:
    scorer = load_bundle(bundle_dir, dtype=dtype, check=False)
    check = recheck(bundle_dir, scorer, dtype=dtype)
    check()
    with torch.no_grad():
        head = next(p for name, p in scorer.backbone.named_parameters() if "score" in name)
        head.mul_(1.5)
    with pytest.raises(BundleError, match="score differently"):
        check()


def test_of_an_ensemble_every_member_is_checked(ensemble_dir: Path) -> None:
    scorer = load_bundle(ensemble_dir, check=False)
    check = recheck(ensemble_dir, scorer)
    check()
    with torch.no_grad():
        head = next(p for name, p in scorer.members[-1].backbone.named_parameters() if "score" in name)
        head.mul_(1.5)
    with pytest.raises(BundleError, match="score differently"):
        check()
