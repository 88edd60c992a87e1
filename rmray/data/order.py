"""Decide which rows make step s, from (seed, epoch, s) alone. Pure; called by `chunks`.

Windows are permuted by (seed, epoch), prompts inside a window by (seed, epoch, window); the epoch's sequence of rows
is their concatenation. A prompt's rows go whole to the step that holds the last of their positions. As no run of rows
is longer than a step, every step has at least one row and an epoch of N rows has exactly ceil(N / G) steps, which is
why resuming, several epochs and steps that straddle windows are arithmetic. Nothing here knows the number of workers.

Legend: N rows, G rows of a global batch, W windows. A position counts rows of an epoch from 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Uint64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class StepCount:
    """How many optimizer steps a run has, and where a step lies. max_steps cuts the run short, never the batches."""

    num_rows: int
    global_batch_size: int
    epochs: int = 1
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_rows // self.global_batch_size)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        total = self.epochs * self.steps_per_epoch
        return total if self.max_steps is None else min(total, self.max_steps)

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step inside that epoch) of a step of the run; all count from 0."""
        return divmod(step, self.steps_per_epoch)


@dataclass(frozen=True, slots=True)
class WindowSequence:
    """The windows in one epoch's order. windows_W: indices into the split; starts_W1: W + 1 first positions."""

    windows_W: Int64
    starts_W1: Int64

    def overlapping(self, first_position: int, stop_position: int) -> range:
        """Places in this sequence of the windows that hold any position of [first_position, stop_position)."""
        first = int(np.searchsorted(self.starts_W1, first_position, side="right")) - 1
        stop = int(np.searchsorted(self.starts_W1, min(stop_position, int(self.starts_W1[-1])), side="left"))
        return range(first, stop)


@dataclass(frozen=True, slots=True)
class WindowOrder:
    """One window in one epoch's order. rows_N: indices into the window; steps_N: the step, counted inside the epoch,
    that each of them belongs to, never falling, so that a range of steps is a slice."""

    rows_N: Int64
    steps_N: Int64

    def slice_of(self, first_step: int, stop_step: int) -> slice:
        """Where the rows of the epoch's steps [first_step, stop_step) lie in rows_N."""
        low, high = np.searchsorted(self.steps_N, [first_step, stop_step])
        return slice(int(low), int(high))


def order_windows(window_rows_W: Int64, *, seed: int, epoch: int) -> WindowSequence:
    """Permute the windows of a split for one epoch. window_rows_W: rows of each."""
    keys_W = _mix(np.arange(len(window_rows_W), dtype=np.uint64) ^ _stream(seed, epoch))
    windows_W = np.argsort(keys_W, kind="stable").astype(np.int64)
    return WindowSequence(windows_W, np.concatenate([[0], np.cumsum(window_rows_W[windows_W])]).astype(np.int64))


def order_window(
    prompt_keys_N: Uint64, *, seed: int, epoch: int, window: int, first_position: int, global_batch_size: int
) -> WindowOrder:
    """Permute the prompts of one window for one epoch and tell which step each row belongs to.

    prompt_keys_N: the prompt of each row, equal keys together or not. first_position: where the window's first row
    comes in the epoch. A prompt with more than `global_batch_size` rows is cut into runs of that many.
    """
    if not len(prompt_keys_N):
        return WindowOrder(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    # The order is that of a keyed hash of the prompt, not of a library's shuffle: it is the same under every numpy.
    # Mixing is one-to-one, so rows of one prompt, and only they, get equal sort keys and come out side by side.
    keys_N = _mix(prompt_keys_N ^ _stream(seed, epoch, window))
    rows_N = np.argsort(keys_N, kind="stable").astype(np.int64)
    sorted_N = keys_N[rows_N]
    bounds_B1 = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1], [True]]))
    starts_B, ends_B = bounds_B1[:-1], bounds_B1[1:]
    sizes_B = ends_B - starts_B
    start_N, end_N = np.repeat(starts_B, sizes_B), np.repeat(ends_B, sizes_B)
    run_N = (np.arange(len(sorted_N)) - start_N) // global_batch_size
    last_N = np.minimum(start_N + (run_N + 1) * global_batch_size, end_N) - 1
    return WindowOrder(rows_N, ((first_position + last_N) // global_batch_size).astype(np.int64))


def hash_row_ids(row_ids: Iterable[str]) -> str:
    """16 hex digits that tell one set of rows from another, whatever their order."""
    return hashlib.sha256("\n".join(sorted(row_ids)).encode()).hexdigest()[:16]


def _stream(*numbers: int) -> np.uint64:
    """A 64-bit key for (seed, epoch, ...): what one stream of sort keys is told from another by."""
    key = np.zeros(1, dtype=np.uint64)
    for number in numbers:
        key = _mix(key ^ np.array([number % 2**64], dtype=np.uint64))
    return np.uint64(key[0])


def _mix(values: Uint64) -> Uint64:
    """A one-to-one scramble of 64-bit numbers (the step of the SplitMix64 generator, Steele et al. 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
