"""Groups as what each side trains on: rows of a prepared set for rmray, pairs of token ids for a padding trainer.

Both get the same pairs: of a group's K completions (0, 1), (2, 3), ..., so that each completion is scored once on
either side, and the loss is over the same pairs. rmray's own loss of a ranking takes all its pairs, which costs it
nothing more, since scores are computed once; a padding trainer would compute every completion K - 1 times. The disjoint
pairs are the comparison that flatters it most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmray.data.group import TokenGroup
from rmray.errors import DataError

if TYPE_CHECKING:
    from rmray.data.prepared import Row

FILE_HASH = "benchmark0000000"


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of the two paths, prompt included."""

    chosen: list[int]
    rejected: list[int]


def pairs_of_groups(groups: Iterable[TokenGroup]) -> list[Pair]:
    """The disjoint pairs of all groups, group after group."""
    return [
        Pair(g.path(k).tolist(), g.path(k + 1).tolist()) for g in groups for k in range(0, g.num_completions - 1, 2)
    ]


def even_groups(groups: Iterable[TokenGroup]) -> list[TokenGroup]:
    """The groups without the last completion where K is odd: every completion stands in one pair."""
    return [
        replace(g, suffixes=g.suffixes[: (n := g.num_completions // 2 * 2)], prompt_lens=g.prompt_lens[:n])
        for g in groups
    ]


def rows_of_groups(groups: Sequence[TokenGroup], *, prompt_keys: Sequence[int] | None = None) -> list[Row]:
    """Rows of a prepared set, completion k of rank k. prompt_keys: which prompt each is of; default: all differ."""
    from rmray.data.prepared import Row

    keys = prompt_keys if prompt_keys is not None else np.random.default_rng(0).permutation(len(groups)).tolist()
    rows = [
        Row(
            row_id=f"{FILE_HASH}:{i + 1}",
            prompt_key=int(key),
            source=None,
            group=group,
            num_chars=tuple(len(s) for s in group.suffixes),
            ranks=tuple(range(group.num_completions)),
            ratings=None,
            margin=None,
        )
        for i, (group, key) in enumerate(zip(groups, keys, strict=True))
    ]
    return sorted(rows, key=lambda row: row.prompt_key)


def write_set(directory: Path, rows: Sequence[Row]) -> Path:
    """Write rows, sorted by prompt, as a prepared set to train on; the directory."""
    import pyarrow.parquet as pq

    from rmray.data.prepared import PREPARED_FORMAT, WINDOW_ROWS, Manifest, Split, Window, table_of_rows

    windows = []
    for number, start in enumerate(range(0, len(rows), WINDOW_ROWS)):
        part = rows[start : start + WINDOW_ROWS]
        path = directory / "train" / f"window-{number:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of_rows(part), path)
        windows.append(
            Window(path.relative_to(directory).as_posix(), len(part), sum(row.group.num_tokens for row in part))
        )
    manifest = Manifest(
        format=PREPARED_FORMAT,
        key="benchmark",
        inputs=(),
        tokenizer_hash="",
        render_rules={},
        rows_in=len(rows),
        quarantined={},
        dropped={},
        notes={},
        train=Split(tuple(windows)),
        eval=Split(()),
    )
    manifest.save(directory)
    return directory


@dataclass(frozen=True, slots=True)
class FileRows:
    """Comparisons of files, rendered. groups: completions from best to worst. prompt_keys: of each. skipped: rows that
    could not be read or rendered, by code."""

    groups: list[TokenGroup]
    prompt_keys: list[int]
    skipped: dict[str, int]


def read_files(
    paths: Sequence[str], tokenizer_dir: str, *, max_length: int, limit: int | None = None, pairs_alone: bool = False
) -> FileRows:
    """Read comparisons with the project's readers and render them by its rules, in the files' order.

    pairs_alone: a ranking is taken apart into all its pairs. limit: so many groups at most. Raises DataError where
    nothing is left.
    """
    from rmray.data.keys import prompt_key
    from rmray.data.render import Renderer, RenderRules
    from rmray.data.tokenizer import load_base_tokenizer
    from rmray.errors import RowError

    tokenizer, _ = load_base_tokenizer(tokenizer_dir)
    renderer = Renderer(tokenizer, RenderRules.for_tokenizer(tokenizer, max_length=max_length))
    rows = FileRows([], [], {})
    for record in _comparisons(paths, rows.skipped):
        if limit is not None and len(rows.groups) >= limit:
            break
        try:
            for completions in _ordered(record, pairs_alone):
                rows.groups.append(renderer.render_group(record.prompt, completions, tools=record.tools))
                rows.prompt_keys.append(prompt_key(record))
        except RowError as error:
            rows.skipped[error.code] = rows.skipped.get(error.code, 0) + 1
    if not rows.groups:
        raise DataError("no comparison could be read", where=", ".join(paths), why=f"skipped: {rows.skipped}")
    return rows


def _comparisons(paths: Sequence[str], skipped: dict[str, int]) -> Iterator[Any]:
    from rmray.evaluation.files import read_comparisons
    from rmray.schema import Comparison

    for _, _, record in read_comparisons(paths, {}):
        if isinstance(record, Comparison):
            yield record
        else:
            skipped[record.code] = skipped.get(record.code, 0) + 1


def _ordered(record: Any, pairs_alone: bool) -> Iterator[list[Any]]:
    """Completions from best to worst: all of them, or the two of every strictly ordered pair."""
    from rmray.data.pairs import pairs_of

    if pairs_alone:
        for better, worse in pairs_of(record.ranks):
            yield [record.completions[better], record.completions[worse]]
    else:
        yield [record.completions[k] for k in sorted(range(len(record.ranks)), key=record.ranks.__getitem__)]
