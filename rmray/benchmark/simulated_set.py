"""A preference set of any size that exists as lengths alone, drawn window by window from a seed. Called by `plan`.

Window w of a seed is always the same, so nothing has to be kept. Legend: W windows, N pairs of a window, Q its prompts,
P tokens of a prompt, R of a completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmray.data.order import Int64, Uint64
from rmray.data.packing import Shapes, measure_shapes
from rmray.data.prepared import WINDOW_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

SIGMA = 0.9
UNEVEN_ROWS = 64  # windows hold whole prompts, and so a few pairs more or fewer than asked for
SECOND_PAIRS = 0.2  # share of pairs whose prompt is that of the pair before


@dataclass(frozen=True, slots=True)
class Source:
    """share: of prompts. prompt_mean (P), completion_mean (R): tokens, log-normal with SIGMA."""

    name: str
    share: float
    prompt_mean: float
    completion_mean: float


# About what public preference sets are mixed of: long conversations, single questions, essays and stories, and code.
MIXTURE = (
    Source("multi-turn", 0.25, 1200, 300),
    Source("chat", 0.35, 120, 290),
    Source("short prompt, long answer", 0.20, 60, 600),
    Source("code", 0.20, 350, 450),
)


@dataclass(frozen=True, slots=True)
class WindowLengths:
    """prompt_keys_N: equal ones are one prompt. prefix_N, suffix_N2: tokens of a pair's prompt and completions."""

    prompt_keys_N: Uint64
    prefix_N: Int64
    suffix_N2: Int64

    def shapes(self, *, shared_prefix: bool) -> Shapes:
        """As `chunks` measures them."""
        pairs_N = np.full(len(self.prefix_N), 2, dtype=np.int64)
        return measure_shapes(self.prefix_N, self.suffix_N2.reshape(-1), pairs_N, shared_prefix=shared_prefix)

    def path_tokens(self) -> Int64:
        """Tokens of both paths of each pair, [N], the prompt counted twice."""
        return np.asarray(2 * self.prefix_N + self.suffix_N2.sum(axis=1))


@dataclass(frozen=True, slots=True)
class SimulatedSet:
    """num_pairs: of the set. max_length: of a path, in tokens; longer prompts are cut, as `truncate_prompt` does."""

    num_pairs: int
    max_length: int
    seed: int = 0
    mixture: tuple[Source, ...] = MIXTURE

    def window_rows(self) -> Int64:
        """Pairs of each window, [W]; their sum is `num_pairs`."""
        num_windows = max(1, round(self.num_pairs / WINDOW_ROWS))
        edges_W1 = np.linspace(0, self.num_pairs, num_windows + 1).astype(np.int64)
        if num_windows > 1:
            noise = np.random.default_rng([self.seed, num_windows]).integers(-UNEVEN_ROWS, UNEVEN_ROWS, num_windows - 1)
            edges_W1[1:-1] += noise // 2
        return np.diff(edges_W1)

    def read_window(self, window: int, num_rows: int) -> WindowLengths:
        """Window `window`, which has `num_rows` pairs."""
        rng = np.random.default_rng([self.seed, self.max_length, window])
        prompt_N = np.cumsum(rng.random(num_rows) >= SECOND_PAIRS)
        num_prompts = int(prompt_N.max(initial=0)) + 1
        source_Q = rng.choice(len(self.mixture), num_prompts, p=[source.share for source in self.mixture])
        keys_Q = rng.integers(0, 2**64, num_prompts, dtype=np.uint64)
        prompt_mean, completion_mean = np.array([(s.prompt_mean, s.completion_mean) for s in self.mixture]).T
        prefix_Q = _log_normal(rng, prompt_mean[source_Q])
        mean_N2 = np.repeat(completion_mean[source_Q[prompt_N]], 2).reshape(-1, 2)
        suffix_N2 = np.minimum(_log_normal(rng, mean_N2), self.max_length // 2)
        prefix_N = np.minimum(prefix_Q[prompt_N], self.max_length - suffix_N2.max(axis=1, initial=0))
        return WindowLengths(keys_Q[prompt_N], prefix_N, suffix_N2)

    def write(self, directory: Path, *, vocab_size: int) -> None:
        """Write the set as a prepared one, with random tokens. For small ones: every token takes four bytes."""
        import pyarrow.parquet as pq

        from rmray.data.prepared import PREPARED_FORMAT, Manifest, Split, Window

        (directory / "train").mkdir(parents=True)
        windows = []
        for window, num_rows in enumerate(self.window_rows().tolist()):
            lengths = self.read_window(window, num_rows)
            path, rng = f"train/window-{window:05d}.parquet", np.random.default_rng([self.seed, window])
            table = _table(lengths, f"{window:016x}", rng, vocab_size)
            pq.write_table(table, directory / path)
            windows.append(Window(path, num_rows, int(lengths.shapes(shared_prefix=True).tokens.sum())))
        Manifest(
            format=PREPARED_FORMAT,
            key="simulated",
            inputs=(),
            tokenizer_hash="",
            render_rules={},
            rows_in=self.num_pairs,
            quarantined={},
            dropped={},
            notes={},
            train=Split(tuple(windows)),
            eval=Split(()),
        ).save(directory)


def _table(lengths: WindowLengths, file_hash: str, rng: np.random.Generator, vocab_size: int) -> pa.Table:
    """A window with ROW_COLUMNS, made of arrays: row by row would take minutes."""
    import pyarrow as pa

    from rmray.data.prepared import ROW_COLUMNS

    num_rows = len(lengths.prefix_N)

    def lists(counts: Int64, values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), values)

    def tokens(counts: Int64) -> pa.Array:
        return lists(counts, pa.array(rng.integers(2, vocab_size, int(counts.sum()), dtype=np.int32)))

    def of_both(values: Int64) -> pa.Array:
        return lists(np.full(num_rows, 2), pa.array(values.reshape(-1).astype(np.int32)))

    suffix_M = lengths.suffix_N2.reshape(-1)
    columns = {
        "row_id": [f"{file_hash}:{row + 1}" for row in range(num_rows)],
        "prompt_key": lengths.prompt_keys_N,
        "source": pa.nulls(num_rows, pa.string()),
        "prefix": tokens(lengths.prefix_N),
        "suffixes": lists(np.full(num_rows, 2), tokens(suffix_M)),
        "prompt_lens": of_both(np.repeat(lengths.prefix_N, 2)),
        "num_chars": of_both(4 * suffix_M),
        "ranks": of_both(np.tile(np.array([0, 1]), num_rows)),
        "ratings": pa.nulls(num_rows, ROW_COLUMNS.field("ratings").type),
        "margin": pa.nulls(num_rows, pa.float64()),
        "labels": pa.nulls(num_rows, ROW_COLUMNS.field("labels").type),
        "step_ends": pa.nulls(num_rows, ROW_COLUMNS.field("step_ends").type),
    }
    return pa.table(columns, schema=ROW_COLUMNS)


def _log_normal(rng: np.random.Generator, means: np.ndarray) -> Int64:
    """Lengths with these means, one token at least."""
    lengths = rng.lognormal(np.log(means) - SIGMA**2 / 2, SIGMA)
    return np.asarray(np.maximum(1, np.rint(lengths)), dtype=np.int64)
