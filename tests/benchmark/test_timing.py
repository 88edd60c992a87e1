"""Rows take turns, and memory is each row's own."""

from __future__ import annotations

import sys

import pytest
import torch

from rmray.benchmark.flops import Work
from rmray.benchmark.timing import PeakMemory, Run, Timing, interleave


def test_every_round_runs_each_row_once_in_rotated_order() -> None:
    seen: list[str] = []
    rounds: list[int] = []

    def row(name: str) -> Run:
        seen.append(name)
        return Run(float(len(seen)), Work(tokens=len(name)))

    rows = {name: (lambda name=name: row(name)) for name in ("a", "bb", "ccc")}
    timings = interleave(rows, rounds=3, before_round=lambda: rounds.append(len(seen)))
    assert [seen[i : i + 3] for i in range(0, 12, 3)] == [
        ["ccc", "a", "bb"],  # warm-up
        ["a", "bb", "ccc"],
        ["bb", "ccc", "a"],
        ["ccc", "a", "bb"],
    ]
    assert rounds == [0, 3, 6, 9]
    assert timings["a"].seconds == [4.0, 9.0, 11.0]
    assert timings["bb"].runs[-1].work.tokens == 2


def test_medians() -> None:
    timing = Timing([Run(s, Work()) for s in (3.0, 1.0, 8.0)])
    assert timing.seconds == [3.0, 1.0, 8.0]
    assert timing.median_s == 3.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_that_since_it_was_made() -> None:
    def use(mib: int) -> None:
        torch.ones(mib * 2**20 // 4).sum().item()

    use(256)
    memory = PeakMemory("cpu")
    peak = memory.read()
    if peak is None:
        pytest.skip("the machine does not let a process forget its peak")
    assert peak < 64 * 2**20
    use(128)
    assert 100 * 2**20 < (memory.read() or 0) < 192 * 2**20
