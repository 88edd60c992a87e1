"""Say what is in no figure: rows that could not be read, completions without a score. Pure. Called by all figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def left_out_notes(
    quarantined: Mapping[str, int], failed: Mapping[str, int], examples: Mapping[str, str]
) -> Iterator[str]:
    """A sentence for each reason, by its code: a cluster's parts come in any order. examples: the first of each, under
    `failed CODE` and `quarantined CODE`."""
    for code, count in sorted(failed.items()):
        yield f"No score ({code}): {counted(count, 'completion')}, the first at {examples[f'failed {code}']}"
    for code, count in sorted(quarantined.items()):
        yield f"Quarantined ({code}): {counted(count, 'row')}, the first at {examples[f'quarantined {code}']}"


def quarantine_examples(examples: Mapping[str, str]) -> dict[str, str]:
    """The first row of each reason."""
    prefix = "quarantined "
    return {key.removeprefix(prefix): text for key, text in sorted(examples.items()) if key.startswith(prefix)}


def counted(count: int, noun: str) -> str:
    """1 row, 2 rows."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
