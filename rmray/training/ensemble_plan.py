"""Plan an ensemble's runs and tell which are finished; what it came to. No Ray. Called by `ensemble`, which runs them.

The runs lie where `--seeds` has them, storage/NAME-seed-0 and on, so that an ensemble takes up what was trained so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rmray.config.train import TrainConfig
from rmray.errors import BundleError, ConfigError
from rmray.models.bundle.manifest import MANIFEST_NAME, BundleManifest, check_files, read_manifest
from rmray.models.combine import Combination
from rmray.training.export import BUNDLE_DIR
from rmray.training.repeats import run_dir_of, seeds_of, vary
from rmray.training.run_dir import check_same, fixed_settings
from rmray.training.seeds import number
from rmray.training.sweep_plan import Trial


@dataclass(frozen=True, slots=True)
class EnsembleOutcome:
    """A finished ensemble. members: what each run's bundle says of it, in order."""

    run_dir: Path
    bundle_dir: Path
    model_version: str
    combination: Combination
    members: tuple[BundleManifest, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run_dir),
            "bundle": str(self.bundle_dir),
            "model_version": self.model_version,
            "combine": str(self.combination),
            "members": [{"name": m.name, "model_version": m.model_version, **m.metrics} for m in self.members],
        }


def plan_members(config: TrainConfig) -> list[TrainConfig]:
    """The members' configs: nothing but name and seed differ. Raises ConfigError where there is no ensemble."""
    if config.ensemble.members < 2:
        raise ConfigError("one model is no ensemble", where="ensemble.members", next_step="give 2 or more")
    return [vary(config, f"seed-{seed}", seed=seed) for seed in seeds_of(config, config.ensemble.members)]


def combination_of(config: TrainConfig) -> Combination:
    return Combination(config.ensemble.combine, config.ensemble.k)


def look_up(config: TrainConfig, identity: Mapping[str, Any], *, overwrite: bool) -> Trial | None:
    """The trial that makes or finishes a member; None where its bundle is there and whole.

    Raises RunError where its directory holds a run of other settings, data or model.
    """
    run_dir = run_dir_of(config)
    if overwrite or not run_dir.exists():
        return Trial(config)
    check_same(run_dir, {**identity, "settings": fixed_settings(config)})
    return None if finished_bundle(run_dir) else Trial(config, resume=True)


def finished_bundle(run_dir: Path) -> BundleManifest | None:
    """What a run's bundle says; None where there is none, or a damaged one, which the run, resumed, makes anew."""
    bundle = run_dir / BUNDLE_DIR
    if not (bundle / MANIFEST_NAME).exists():
        return None
    try:
        manifest = read_manifest(bundle)
        check_files(bundle, manifest.files)
    except BundleError:
        return None
    return manifest


def is_combined(run_dir: Path, members: Sequence[BundleManifest], combination: Combination) -> bool:
    """Whether the ensemble of these members, so combined, is there and whole."""
    made = finished_bundle(run_dir)
    if made is None or made.ensemble is None:
        return False
    same_rule = made.ensemble.combination.decides() == combination.decides()
    return same_rule and made.ensemble.members == tuple(member.model_version for member in members)


def print_ensemble(outcome: EnsembleOutcome, console: Console | None = None) -> None:
    """Print the members' held-out accuracies and the bundle."""
    title = f"ensemble of {len(outcome.members)}, combined by {outcome.combination}: {outcome.model_version}"
    table = Table(title=Text(title), title_justify="left")
    for column in ("member", "held-out accuracy", "loss", "version"):
        table.add_column(column, justify="right" if column in ("held-out accuracy", "loss") else "left", no_wrap=True)
    for member in outcome.members:
        accuracy, loss = (number(member.metrics.get(f"eval_{name}")) for name in ("accuracy", "loss"))
        table.add_row(Text(member.name), accuracy, loss, member.model_version)
    console = console or Console()
    console.print(table)
    console.print(Text(str(outcome.bundle_dir)))
