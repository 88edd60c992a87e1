"""`rmray ensemble`: combine bundles into one. Used by `verbs`; everything heavy is imported late."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from rmray.config.train import Combine


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="bundles of one tokenizer, render rules and reference set"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the ensemble's bundle is written")
    parser.add_argument(
        "--combine", choices=get_args(Combine), default="mean", help="what rewards become (default: %(default)s)"
    )
    parser.add_argument(
        "--k", type=float, default=1.0, metavar="K", help="of mean_minus_std: mean - K x std (default: %(default)s)"
    )
    parser.add_argument(
        "--reference", metavar="FILE", help="the members' reference records (default: what the first bundle holds)"
    )
    parser.add_argument("--name", default=None, help="name of the ensemble (default: that of DIR)")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is there")


def run(arguments: Namespace) -> Mapping[str, Any]:
    """Write the ensemble and say what it is."""
    from rmray.models.bundle import build_ensemble
    from rmray.models.bundle.ensemble import reference_of_members
    from rmray.models.bundle.load import default_device
    from rmray.models.combine import Combination

    combination = Combination(arguments.combine, arguments.k)
    info = build_ensemble(
        arguments.bundles,
        arguments.output,
        name=arguments.name or Path(arguments.output).resolve().name,
        reference=reference_of_members(arguments.bundles, arguments.reference),
        combination=combination,
        overwrite=arguments.overwrite,
        device=default_device(),
    )
    print(
        f"wrote {arguments.output}: {len(arguments.bundles)} member(s), combined by {combination}, model version "
        f"{info.model_version}"
    )
    return {
        "bundle": arguments.output,
        "model_version": info.model_version,
        "members": list(info.manifest.ensemble.members) if info.manifest.ensemble else [],
        "combine": arguments.combine,
    }
