"""What each side trains on is the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rmray.benchmark.sets import even_groups, pairs_of_groups, read_files, rows_of_groups, write_set
from rmray.benchmark.workloads import Workload, make_groups
from rmray.data.chunks import StepSource, local_steps
from rmray.errors import DataError


def test_a_written_set_is_read_back_whole(tmp_path: Path) -> None:
    groups = make_groups(Workload("w", 9, 4, 4), 10, 50)
    write_set(tmp_path, rows_of_groups(groups))
    shares = list(local_steps(StepSource(str(tmp_path), 0, 5, 10_000)))
    rows = [row for share in shares for batch in share.micro_batches for row in batch]
    assert [share.num_comparisons for share in shares] == [5, 5]
    assert sorted(row.group.path(3).tolist() for row in rows) == sorted(g.path(3).tolist() for g in groups)
    assert {row.ranks for row in rows} == {(0, 1, 2, 3)}


def test_pairs_are_disjoint_and_whole() -> None:
    groups = make_groups(Workload("w", 9, 4, 4), 2, 50)
    pairs = pairs_of_groups(groups)
    assert [p.chosen for p in pairs] == [g.path(k).tolist() for g in groups for k in (0, 2)]
    assert [p.rejected for p in pairs] == [g.path(k).tolist() for g in groups for k in (1, 3)]


def test_the_last_of_an_odd_number_is_left_out() -> None:
    (group,) = make_groups(Workload("w", 9, 4, 3), 1, 50)
    (even,) = even_groups([group])
    assert even.num_completions == 2
    assert np.array_equal(even.path(1), group.path(1))


def test_files_are_rendered_best_first(tmp_path: Path, tiny_base: Path) -> None:
    rows = [
        {"prompt": "Question: ", "completions": ["bad", "good", "fair"], "scores": [1, 3, 2]},
        {"prompt": "Question: ", "chosen": "", "rejected": "x"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    read = read_files([str(file)], str(tiny_base), max_length=100)
    (group,) = read.groups
    good, fair, bad = (tuple(group.path(k).tolist()) for k in range(3))
    assert len(bad) < len(good)  # fewer letters
    assert sum(read.skipped.values()) == 1
    pairs = read_files([str(file)], str(tiny_base), max_length=100, pairs_alone=True)
    paths = {(tuple(g.path(0).tolist()), tuple(g.path(1).tolist())) for g in pairs.groups}
    assert paths == {(good, fair), (good, bad), (fair, bad)}
    assert len(set(pairs.prompt_keys)) == 1


def test_files_without_a_comparison_are_an_error(tmp_path: Path, tiny_base: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "p", "chosen": "", "rejected": "x"}))
    with pytest.raises(DataError, match="no comparison"):
        read_files([str(file)], str(tiny_base), max_length=100)
