"""Workloads: lengths against their closed form, token counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rmray.benchmark.workloads import (
    PAD_ID,
    WORKLOADS,
    Workload,
    count_tokens,
    length_order,
    make_groups,
    pair_lengths,
)
from rmray.data.group import TokenGroup


def group(prompt: int, *completions: int) -> TokenGroup:
    suffixes = tuple(np.ones(n, np.int32) for n in completions)
    return TokenGroup(np.ones(prompt, np.int32), suffixes, (prompt,) * len(suffixes))


@pytest.mark.parametrize("workload", [Workload("w", 125, 45, 2), Workload("cut", 300, 200, 4, max_length=250)])
def test_lengths_have_the_means_of_the_closed_form(workload: Workload) -> None:
    groups = make_groups(workload, 4000, vocab_size=50)
    prompts = [len(g.prefix) for g in groups]
    completions = [len(s) for g in groups for s in g.suffixes]
    for lengths, mean in ((prompts, workload.prompt_mean), (completions, workload.completion_mean)):
        error = np.std(lengths) / math.sqrt(len(lengths))
        assert np.mean(lengths) == pytest.approx(workload.expected_length(mean), abs=4 * error + 0.5)
        assert min(lengths) >= 1
        assert max(lengths) <= workload.max_length


def test_the_spread_is_the_log_normals() -> None:
    lengths = [len(g.prefix) for g in make_groups(Workload("w", 1000, 10, 2), 4000, vocab_size=5)]
    assert np.std(np.log(lengths)) == pytest.approx(0.9, abs=0.04)


def test_cutting_takes_little_off_the_table() -> None:
    for workload in WORKLOADS.values():
        for mean in (workload.prompt_mean, workload.completion_mean):
            assert 0.985 * mean < workload.expected_length(mean) <= mean


def test_ids_are_reproducible_and_never_padding() -> None:
    first, again, other = (make_groups(WORKLOADS["rollouts-8"], 3, vocab_size=7, seed=s) for s in (1, 1, 2))
    ids = np.concatenate([np.concatenate([g.prefix, *g.suffixes]) for g in first])
    assert set(ids.tolist()) == set(range(PAD_ID + 1, 7))
    assert all(np.array_equal(a.path(7), b.path(7)) for a, b in zip(first, again, strict=True))
    assert [g.num_tokens for g in first] != [g.num_tokens for g in other]
    assert {g.num_completions for g in first} == {8}


def test_ideal_by_hand() -> None:
    assert WORKLOADS["multi-turn"].ideal == pytest.approx(2 * 170 / 215)
    assert WORKLOADS["rollouts-16"].ideal == pytest.approx(16 * 1280 / 5120)
    assert WORKLOADS["losing"].ideal < 1.03


def test_token_counts_by_hand() -> None:
    groups = [group(10, 1, 2), group(10, 3, 4), group(90, 5, 10)]
    counts = count_tokens(groups, batch_pairs=1)
    assert counts.given == (11 + 12) + (13 + 14) + (95 + 100)
    assert counts.shared == 13 + 17 + 105
    assert counts.padded_random == counts.padded_by_length == 2 * (12 + 14 + 100)
    together = count_tokens(groups, batch_pairs=3)
    assert together.padded_random == together.padded_by_length == 6 * 100


def test_ordering_by_length_pads_less_and_keeps_every_pair() -> None:
    groups = make_groups(WORKLOADS["multi-turn"], 200, vocab_size=9)
    counts = count_tokens(groups, batch_pairs=8)
    assert counts.shared < counts.given < counts.padded_by_length < 0.7 * counts.padded_random
    order = length_order(pair_lengths(groups), 8)
    assert sorted(order) == list(range(200))
    assert order != sorted(order)


def test_pairs_of_a_larger_group_are_disjoint() -> None:
    assert pair_lengths([group(5, 1, 2, 3, 4), group(7, 1, 1)]) == [(6, 7), (8, 9), (8, 8)]
