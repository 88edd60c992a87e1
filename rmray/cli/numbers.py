"""Numbers of the command line, for argparse. Used by the verbs' options."""

from __future__ import annotations


def count(text: str) -> int:
    """A number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
