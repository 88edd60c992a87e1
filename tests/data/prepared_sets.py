"""Write small prepared sets directly, without Ray or a tokenizer. Used by the suites that read prepared sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rmray.data.group import TokenGroup
from rmray.data.prepared import COMPARISON_COLUMNS, PREPARED_FORMAT, WINDOW_ROWS, Manifest, Row, Split, Window

GOLDEN_RATIO_64 = 0x9E3779B97F4A7C15  # odd: multiplying by it permutes the 64-bit numbers


def random_rows(
    num_rows: int,
    seed: int = 0,
    *,
    rows_per_prompt: int = 1,
    completions: int = 2,
    prompt_tokens: tuple[int, int] = (1, 24),
    completion_tokens: tuple[int, int] = (1, 40),
    vocab_size: int = 200,
    file_hash: str = "0123456789abcdef",
) -> list[Row]:
    """Rows with random token ids of uneven length; ranks 0, 1, ...; token 0 never occurs, it may serve as padding.

    rows_per_prompt: so many consecutive rows share their prompt (and its key); the last prompt may have fewer.
    prompt_tokens, completion_tokens: inclusive ranges of lengths.
    """
    rng = np.random.default_rng(seed)

    def token_ids(length: tuple[int, int]) -> np.ndarray:
        return rng.integers(1, vocab_size, int(rng.integers(length[0], length[1] + 1)), dtype=np.int32)

    rows = []
    for index in range(num_rows):
        if index % rows_per_prompt == 0:
            prompt_key, prefix = int(rng.integers(0, 2**64, dtype=np.uint64)), token_ids(prompt_tokens)
        suffixes = tuple(token_ids(completion_tokens) for _ in range(completions))
        rows.append(
            Row(
                row_id=f"{file_hash}:{index + 1}",
                prompt_key=prompt_key,
                source=None,
                group=TokenGroup(prefix, suffixes, (len(prefix),) * completions),
                num_chars=tuple(4 * len(s) for s in suffixes),
                ranks=tuple(range(completions)),
                ratings=None,
                margin=None,
            )
        )
    return rows


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table with COMPARISON_COLUMNS."""
    return pa.Table.from_pylist(
        [
            {
                "row_id": row.row_id,
                "prompt_key": row.prompt_key,
                "source": row.source,
                "prefix": row.group.prefix,
                "suffixes": list(row.group.suffixes),
                "prompt_lens": row.group.prompt_lens,
                "num_chars": row.num_chars,
                "ranks": row.ranks,
                "ratings": row.ratings,
                "margin": row.margin,
            }
            for row in rows
        ],
        schema=COMPARISON_COLUMNS,
    )


def write_prepared(
    directory: Path,
    rows: Sequence[Row],
    *,
    window_rows: int = WINDOW_ROWS,
    eval_rows: Sequence[Row] = (),
    tokenizer_hash: str = "0" * 16,
) -> Manifest:
    """Write train and eval windows and the manifest, laid out as `prepare` does; returns the manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "quarantine.jsonl").write_text("")
    manifest = Manifest(
        format=PREPARED_FORMAT,
        key="test",
        inputs=(),
        tokenizer_hash=tokenizer_hash,
        render_rules={},
        rows_in=len(rows) + len(eval_rows),
        quarantined={},
        dropped={},
        notes={},
        train=_write_split(directory, "train", rows, window_rows),
        eval=_write_split(directory, "eval", eval_rows, window_rows),
    )
    manifest.save(directory)
    return manifest


def _write_split(directory: Path, split: str, rows: Sequence[Row], window_rows: int) -> Split:
    (directory / split).mkdir(exist_ok=True)
    num_windows = -(-len(rows) // window_rows)
    windows = []
    for index in range(num_windows):
        members = [row for row in rows if _hash(row.prompt_key) * num_windows >> 64 == index]
        members.sort(key=lambda row: (_hash(row.prompt_key), row.row_id))
        path = f"{split}/window-{index:05d}.parquet"
        pq.write_table(table_of(members), directory / path)
        windows.append(Window(path, len(members), sum(row.group.num_tokens for row in members)))
    return Split(tuple(windows))


def _hash(prompt_key: int) -> int:
    return prompt_key * GOLDEN_RATIO_64 % 2**64
