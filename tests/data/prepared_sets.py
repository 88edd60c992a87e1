"""Write small prepared sets directly, without Ray or a tokenizer. Used by the suites that read prepared sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rmray.data.group import TokenGroup
from rmray.data.prepared import (
    PREPARED_FORMAT,
    ROW_COLUMNS,
    WINDOW_ROWS,
    Manifest,
    Row,
    Split,
    Window,
    table_of_rows,
)

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
    manifest = _manifest(
        len(rows) + len(eval_rows),
        tokenizer_hash=tokenizer_hash,
        train=_write_split(directory, "train", rows, window_rows),
        eval=_write_split(directory, "eval", eval_rows, window_rows),
    )
    manifest.save(directory)
    return manifest


def _manifest(rows_in: int, *, train: Split, eval: Split, tokenizer_hash: str = "0" * 16) -> Manifest:
    return Manifest(
        format=PREPARED_FORMAT,
        key="test",
        inputs=(),
        tokenizer_hash=tokenizer_hash,
        render_rules={},
        rows_in=rows_in,
        quarantined={},
        dropped={},
        notes={},
        train=train,
        eval=eval,
    )


def _write_split(directory: Path, split: str, rows: Sequence[Row], window_rows: int) -> Split:
    (directory / split).mkdir(exist_ok=True)
    num_windows = -(-len(rows) // window_rows)
    windows = []
    for index in range(num_windows):
        members = [row for row in rows if _hash(row.prompt_key) * num_windows >> 64 == index]
        members.sort(key=lambda row: (_hash(row.prompt_key), row.row_id))
        path = f"{split}/window-{index:05d}.parquet"
        pq.write_table(table_of_rows(members), directory / path)
        windows.append(Window(path, len(members), sum(row.group.num_tokens for row in members)))
    return Split(tuple(windows))


def _hash(prompt_key: int) -> int:
    return prompt_key * GOLDEN_RATIO_64 % 2**64


def write_large_set(directory: Path, *, num_windows: int, window_rows: int, prompt_tokens: int = 512) -> int:
    """Write a training split of pairs whose prompt and answers have `prompt_tokens` tokens each, straight from arrays,
    two rows a prompt; returns its size in memory, in bytes. For sets that are too large to make row by row."""
    (directory / "train").mkdir(parents=True, exist_ok=True)
    (directory / "quarantine.jsonl").write_text("")
    rng = np.random.default_rng(0)
    windows, num_bytes = [], 0
    for index in range(num_windows):
        table = _large_window(rng, index, window_rows, prompt_tokens)
        windows.append(Window(f"train/window-{index:05d}.parquet", window_rows, 3 * prompt_tokens * window_rows))
        pq.write_table(table, directory / windows[-1].path, compression="none", use_dictionary=False)
        num_bytes += table.nbytes
    _manifest(num_windows * window_rows, train=Split(tuple(windows)), eval=Split(())).save(directory)
    return num_bytes


def _large_window(rng: np.random.Generator, index: int, num_rows: int, num_tokens: int) -> pa.Table:
    def token_ids(count: int) -> pa.Array:
        ids = pa.array(rng.integers(1, 30_000, count * num_tokens, dtype=np.int32))
        return pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * num_tokens, ids)

    def pairs(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(np.arange(num_rows + 1, dtype=np.int32) * 2, values)

    columns = {
        "row_id": [f"0123456789abcdef:{index * num_rows + i + 1}" for i in range(num_rows)],
        "prompt_key": np.repeat(np.sort(rng.integers(0, 2**64, num_rows // 2, dtype=np.uint64)), 2),
        "source": pa.nulls(num_rows, pa.string()),
        "prefix": token_ids(num_rows),
        "suffixes": pairs(token_ids(2 * num_rows)),
        "prompt_lens": pairs(pa.array(np.full(2 * num_rows, num_tokens, dtype=np.int32))),
        "num_chars": pairs(pa.array(np.full(2 * num_rows, 4 * num_tokens, dtype=np.int32))),
        "ranks": pairs(pa.array(np.tile(np.array([0, 1], dtype=np.int32), num_rows))),
        "ratings": pa.nulls(num_rows, ROW_COLUMNS.field("ratings").type),
        "margin": pa.nulls(num_rows, pa.float64()),
        "labels": pa.nulls(num_rows, ROW_COLUMNS.field("labels").type),
        "step_ends": pa.nulls(num_rows, ROW_COLUMNS.field("step_ends").type),
    }
    return pa.table(columns, schema=ROW_COLUMNS)
