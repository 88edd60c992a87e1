"""Score a golden of a loaded bundle again: is it still the model that was loaded? Called by serving, now and then.

Memory that flips, a device that begins to fail, a setting of the process that was changed under it: what the checks at
load have seen does not hold for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch

from rmray.models.bundle.goldens import Forward, Golden, Goldens, check_goldens, load_goldens
from rmray.models.bundle.load import default_dtype, is_exact
from rmray.models.bundle.manifest import read_manifest
from rmray.models.bundle.members import member_dir
from rmray.models.ensemble import EnsembleScorer
from rmray.models.scorer import Scorer


def recheck(
    directory: str | Path, scorer: Scorer, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Callable[[], None]:
    """A check of `scorer`, which `load_bundle` made of DIR with this device and dtype. It costs one small forward, of
    an ensemble one a member, and reads no file. It raises BundleError where a golden renders or scores differently.
    """
    directory, device = Path(directory), torch.device(device)
    exact = is_exact(device, dtype or default_dtype(device))
    if isinstance(scorer, EnsembleScorer):
        models = [(member_dir(directory, m), member) for m, member in enumerate(scorer.members)]
    else:
        models = [(directory, scorer)]
    checks = [_check_of(of, cast(Forward, model), exact) for of, model in models]

    def check() -> None:
        for one in checks:
            one()

    return check


def _check_of(directory: Path, scorer: Forward, exact: bool) -> Callable[[], None]:
    goldens, std = load_goldens(directory), None if exact else read_manifest(directory).reference.std
    # Of all of them the one that came out nearest here: where another device computes, it has the most room to move.
    chosen = min(goldens.items, key=lambda golden: _gap(golden, scorer))
    one = Goldens((chosen,), goldens.tolerance, goldens.made_with)

    def check() -> None:
        check_goldens(one, scorer, std=std, where=str(directory), on_average=False)

    return check


def _gap(golden: Golden, scorer: Forward) -> float:
    """How far the golden's scores lie from the bundle's, at most."""
    (raw,) = scorer.forward(scorer.encode([golden.request]))
    return float(np.abs(raw.ravel() - np.array(golden.values)).max())
