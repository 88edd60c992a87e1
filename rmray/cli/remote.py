"""The options that name a reward model on a vLLM server, and opening it. Used by `evaluate` and `source`; heavy imports
are late."""

from __future__ import annotations

import os
from argparse import Namespace, _ActionsContainer, _ArgumentGroup
from typing import TYPE_CHECKING

from rmray.errors import ConfigError

if TYPE_CHECKING:
    from rmray.models.remote import RemoteScorer


def remote_arguments(models: _ArgumentGroup) -> None:
    remote_options(models, models)


def remote_options(model: _ActionsContainer, beside: _ActionsContainer) -> None:
    """model: where models are named, perhaps one alone. beside: where the other options go."""
    model.add_argument("--remote", metavar="URL", help="a reward model on a vLLM server (/classify or /pooling)")
    beside.add_argument("--bundle-rules", metavar="DIR", help="the bundle whose rules --remote is asked by")
    beside.add_argument("--remote-key-env", metavar="NAME", help="environment variable with the key of --remote")


def check_remote(arguments: Namespace) -> None:
    """Raise ConfigError where one of the two options is there without the other, or the address is none."""
    if bool(arguments.remote) != bool(arguments.bundle_rules):
        raise ConfigError(
            "--remote and --bundle-rules go together",
            why="the server gives raw scores of token ids; how texts become ids, and scores rewards, is the bundle's",
        )
    if arguments.remote:
        from rmray.models.model_server import checked_url

        checked_url(arguments.remote, where="--remote")


def open_remotes(arguments: Namespace) -> list[RemoteScorer]:
    """The remote model, if one is named."""
    if not arguments.remote:
        return []
    from rmray.models.model_server import api_key_from
    from rmray.models.remote import open_remote

    key = api_key_from(arguments.remote_key_env, os.environ, where="--remote-key-env")
    return [open_remote(arguments.remote, arguments.bundle_rules, api_key=key)]
