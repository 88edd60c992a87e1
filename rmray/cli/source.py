"""The options that name the one model of a verb, and opening it. Used by `score`, `best-of-n` and `serve`.

Heavy imports are late.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from rmray.cli.remote import check_remote, open_remotes, remote_options

if TYPE_CHECKING:
    from rmray.evaluation.source import RewardSource


def add_arguments(parser: ArgumentParser, purpose: str, *, required: bool = True) -> None:
    """purpose: what the model is for, such as "to score with". required: false where a config may name it."""
    model = parser.add_mutually_exclusive_group(required=required)
    model.add_argument("--bundle", metavar="DIR", help=f"the bundle {purpose}")
    model.add_argument("--judge", metavar="FILE", help=f"the judge config {purpose}")
    remote_options(model, parser)


def check(arguments: Namespace) -> None:
    """Raise ConfigError for what can be told without opening anything."""
    check_remote(arguments)


def open_source(arguments: Namespace) -> RewardSource:
    """The model that is named. Raises as opening it does."""
    if arguments.judge:
        from rmray.models.judge import open_judge

        return open_judge(arguments.judge)
    if arguments.remote:
        return open_remotes(arguments)[0]
    from rmray.evaluation.files import open_bundle

    return open_bundle(arguments.bundle)
