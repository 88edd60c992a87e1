"""`rmray serve`: its options, and what each asks of `serving.app`. Used by `verbs`; heavy imports are late."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from rmray.cli import source
from rmray.config import load_config
from rmray.config.serve import SERVED_DIR_ENV, ServeConfig, check_share
from rmray.errors import ConfigError

FLAGS = {
    "name": "name",
    "http_port": "http_port",
    "min_replicas": "options.min_replicas",
    "max_replicas": "options.max_replicas",
    "max_replicas_per_node": "options.max_replicas_per_node",
    "cpus": "options.cpus",
    "gpus": "options.gpus",
    "dtype": "options.dtype",
    "target_tokens": "options.target_tokens",
    "bundle": "bundle",
    "judge": "judge",
    "remote": "remote.url",
    "bundle_rules": "remote.bundle_rules",
    "remote_key_env": "remote.key_env",
}
"""What each flag sets in the config."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG.yaml",
        nargs="?",
        help="serve config; flags and --dotted.key VALUE, such as --options.upscale_delay_s 2, override its fields",
    )
    source.add_arguments(parser, "to serve", required=False)
    parser.add_argument("--name", help="the name that clients ask for (default: reward-model)")
    parser.add_argument(
        "--http-port", type=int, metavar="N", help="HTTP port (default: Serve's own, else 8000, else a free one)"
    )
    parser.add_argument("--min-replicas", type=int, metavar="N", help="0: none where nobody asks (default: 1)")
    parser.add_argument("--max-replicas", type=int, metavar="N", help="(default: 2, or --min-replicas)")
    parser.add_argument("--max-replicas-per-node", type=int, metavar="N", help="(default: as many as fit)")
    parser.add_argument("--cpus", type=float, metavar="X", help="CPUs, and torch threads, per replica (default: 1)")
    parser.add_argument("--gpus", type=float, metavar="X", help="GPUs, or a share of one, per replica (default: 0)")
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], help="of a bundle's weights (default: auto)"
    )
    parser.add_argument("--target-tokens", type=int, metavar="N", help="tokens per replica that autoscaling aims at")
    parser.add_argument("--canary", type=float, metavar="SHARE", help="take only this share of the name's calls")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--rollback", action="store_true", help="back to the version before; ends a canary")
    instead.add_argument("--promote", action="store_true", help="give the canary of the name all calls")
    instead.add_argument(
        "--restore", metavar="DIR", help=f"serve all that is written down in DIR (see {SERVED_DIR_ENV})"
    )


def run(arguments: Namespace) -> Mapping[str, Any]:
    """Serve what the config and the flags name, or move a name that is served."""
    if arguments.restore:
        return _restore(arguments)
    if arguments.rollback or arguments.promote:
        return _move(arguments)
    source.check(arguments)
    config = read_config(arguments)
    from rmray.serving.app import serve
    from rmray.serving.app.recipes import recipe_of

    if arguments.canary is not None:
        check_share(arguments.canary)
    options = config.options.model_dump(exclude_unset=True)
    return serve(
        lambda _: recipe_of(config), name=config.name, http_port=config.http_port, canary=arguments.canary, **options
    )


def read_config(arguments: Namespace) -> ServeConfig:
    """The config file, if there is one, with the flags and the dotted keys over it."""
    # As JSON, which YAML reads: a name such as `1e5` stays text.
    flags = [(key, json.dumps(value)) for flag, key in FLAGS.items() if (value := getattr(arguments, flag)) is not None]
    given = {key for key, _ in [*flags, *arguments.overrides]}
    if arguments.config is None and "options.max_replicas" not in given:
        flags.append(("options.max_replicas", str(max(2, arguments.min_replicas or 0))))
    if arguments.config is None and not given & {"bundle", "judge", "remote.url"}:
        raise ConfigError(
            "say what is to be served", where="rmray serve", next_step="give --bundle, --judge, --remote or a config"
        )
    return load_config(ServeConfig, arguments.config, [*flags, *arguments.overrides])


def _move(arguments: Namespace) -> Mapping[str, Any]:
    verb = "--rollback" if arguments.rollback else "--promote"
    _check_alone(verb, arguments, why="a version is served with the options it had", but="name")
    if arguments.name is None:
        raise ConfigError(f"{verb} needs --name", next_step="say which served model is meant")
    from rmray.connect import connected_to_running
    from rmray.serving.app import promote, roll_back
    from rmray.serving.app.foreground import told

    with connected_to_running():
        deployed = (roll_back if arguments.rollback else promote)(arguments.name, tell=print)
    print(f"{arguments.name} is {deployed.model.model_version[:12]}, and was {deployed.replaced}")
    return told(deployed)


def _restore(arguments: Namespace) -> Mapping[str, Any]:
    _check_alone("--restore", arguments, why="what is served stands in the files of its directory")
    from rmray.connect import connected_to_running
    from rmray.serving.app.foreground import told
    from rmray.serving.app.record import restore

    with connected_to_running():
        deployed = restore(arguments.restore, tell=print)
    print(f"served again: {', '.join(each.model.name for each in deployed) or 'nothing'}")
    return {"served": [told(each) for each in deployed]}


def _check_alone(verb: str, arguments: Namespace, *, why: str, but: str | None = None) -> None:
    """ConfigError where something is said that the verb would pass over."""
    flags = [flag for flag in (*FLAGS, "canary") if flag != but and getattr(arguments, flag) is not None]
    needless = [f"--{flag.replace('_', '-')}" for flag in flags] + [f"--{key}" for key, _ in arguments.overrides]
    if arguments.config is not None:
        needless.insert(0, arguments.config)
    if needless:
        raise ConfigError(f"{needless[0]} has no meaning with {verb}", why=why)
