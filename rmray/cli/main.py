"""Parse the command line, run a verb, turn errors into exit codes. Verbs and their options are in `verbs`.

Exit codes: 0 success; 2 what the user can mend, told in one message without a traceback; 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence

from rmray import __version__
from rmray.cli.verbs import VERBS, nearest_option
from rmray.errors import ConfigError, RmrayError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    parser = _parser()
    words, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    arguments, unknown = parser.parse_known_args(words)
    if arguments.verb is None:
        parser.print_help()
        return 0
    try:
        arguments.overrides = _check_known(arguments.verb, overrides, unknown)
        result = VERBS[arguments.verb].run(arguments)
    except RmrayError as error:
        return _tell(error, debug=arguments.debug)
    except KeyboardInterrupt:
        print("rmray: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        # Ray wraps what a remote function raised in a subclass that carries the original as `cause`.
        cause = getattr(error, "cause", None)
        if isinstance(cause, RmrayError):
            return _tell(cause, debug=arguments.debug)
        traceback.print_exc()
        return 1
    if arguments.json:
        print(json.dumps(result, allow_nan=False))
    return 0


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Plain words, and `--dotted.key value` or `--dotted.key=value` pairs wherever they stand.

    The word after a dotted key is its value even where it begins with a dash; None stands for a missing one.
    """
    plain: list[str] = []
    overrides: list[tuple[str, str | None]] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in key:
            plain.append(word)
        elif equals:
            overrides.append((key, value))
        else:
            overrides.append((key, queue.pop(0) if queue else None))
    return plain, overrides


def _check_known(
    verb: str, overrides: Sequence[tuple[str, str | None]], unknown: Sequence[str]
) -> list[tuple[str, str]]:
    """The overrides, or ConfigError where the verb takes none, one has no value, or a word is unknown."""
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        near = nearest_option(verb, name) if VERBS[verb].takes_overrides else None
        raise ConfigError(
            f"unknown argument {unknown[0]!r}" + (f"; did you mean `--{near}`?" if near else ""),
            where=f"rmray {verb}",
            next_step=f"see rmray {verb} --help",
        )
    if overrides and not VERBS[verb].takes_overrides:
        raise ConfigError(
            f"--{overrides[0][0]} is a config override, and this verb has no config", where=f"rmray {verb}"
        )
    given = [(key, value) for key, value in overrides if value is not None]
    if len(given) < len(overrides):
        raise ConfigError(f"--{overrides[-1][0]} has no value", next_step="overrides are written --dotted.key value")
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rmray", description="Train, evaluate and serve reward models for RLHF on Ray.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"rmray {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, verb in VERBS.items():
        below = verbs.add_parser(name, help=verb.summary, description=verb.summary, allow_abbrev=False)
        verb.add_arguments(below)
        below.add_argument("--json", action="store_true", help="end stdout with one JSON object")
        below.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _tell(error: RmrayError, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"rmray: error: {_message(error)}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def _message(error: RmrayError) -> str:
    # str() of an error that Ray has wrapped is a remote traceback: the plain class gives the message.
    return RmrayError.__str__(error)
