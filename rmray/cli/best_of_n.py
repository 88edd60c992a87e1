"""`rmray best-of-n`: its options and what it shows. Used by `verbs`; everything heavy is imported late."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from functools import partial
from typing import Any

from rmray.cli import source
from rmray.cli.columns import add_data_arguments, columns_of
from rmray.cli.numbers import count, seed


def add_arguments(parser: ArgumentParser) -> None:
    source.add_arguments(parser, "to pick with")
    add_data_arguments(parser, "--input", "rows with a prompt and its completions")
    parser.add_argument("--output", required=True, metavar="DIR", help="where best.jsonl is written")
    parser.add_argument("--n", type=count, metavar="N", help="pick among N of the completions, drawn by the seed")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the draw, and of who wins a tie")


def run(arguments: Namespace) -> Mapping[str, Any]:
    """Pick, and say what the picks are worth by the model's own rewards."""
    source.check(arguments)
    from rmray.evaluation.best_of_n_file import best_of_n_file

    figures = best_of_n_file(
        partial(source.open_source, arguments),
        arguments.input,
        arguments.output,
        columns=columns_of(arguments),
        n=arguments.n,
        seed=arguments.seed,
    )
    print(
        f"picked in {figures['picked']} of {figures['rows']} rows, {figures['ties']} by a tie's draw, "
        f"{figures['failed']} failed -> {figures['best']}"
    )
    if figures["picked"]:
        print(
            f"  reward of the picks {figures['reward_best']:.4f}, of all completions {figures['reward_mean']:.4f}; "
            f"KL at most {figures['kl']:.4f} nats"
        )
    for code, number in figures["errors"].items():
        print(f"  {number} x {code}")
    return figures
