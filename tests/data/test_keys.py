from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rmray.data.keys import (
    holdout_limit,
    pair_keys,
    prompt_key,
    split_hashes,
    stored_order,
    window_bounds,
    window_edges,
)
from rmray.data.prepared import WINDOW_ROWS
from rmray.errors import DataError
from rmray.schema import Comparison, Content, TokenIds


def pair(prompt: Content, better: Content = "a", worse: Content = "b") -> Comparison:
    return Comparison(prompt=prompt, completions=(better, worse), ranks=(0, 1))


def test_prompt_keys_are_fixed_forever() -> None:
    # Prepared sets of other machines and Python versions are laid out by the same numbers.
    assert prompt_key(pair("What is two plus three?")) == 0x70BB2D49D0A407C9  # blake2b of '"text:What is ..."', 8 bytes


def test_one_prompt_has_one_key() -> None:
    text = pair("q")
    assert prompt_key(text) == prompt_key(pair(" q\n", "x", "y"))
    assert prompt_key(text) == prompt_key(pair(({"role": "user", "content": "q"},)))
    chat = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    assert prompt_key(pair(chat)) == prompt_key(pair(tuple({"content": m["content"], "role": m["role"]} for m in chat)))
    assert len({prompt_key(p) for p in (text, pair("r"), pair(chat), pair(TokenIds((1,))), pair("ids:1"))}) == 5


def test_rows_without_a_prompt_have_nothing_in_common() -> None:
    assert prompt_key(pair("", "a", "b")) != prompt_key(pair("", "a", "c"))
    assert prompt_key(pair("", "a", "b")) == prompt_key(pair((), "b", "a"))


def test_pair_keys_tell_duplicates_from_contradictions() -> None:
    one, again, against = pair("q"), pair("q"), pair("q", "b", "a")
    assert pair_keys(one) == pair_keys(again)
    assert pair_keys(one)[0] == pair_keys(against)[0]
    assert pair_keys(one)[1] != pair_keys(against)[1]
    shuffled = Comparison(prompt="q", completions=("b", "a"), ranks=(1, 0))
    assert pair_keys(shuffled) == pair_keys(one)


def test_pairs_keep_their_order_and_longer_lists_are_shuffled() -> None:
    assert stored_order("f:1", 2) == [0, 1]
    orders = [stored_order(f"f:{i}", 4) for i in range(2000)]
    assert orders == [stored_order(f"f:{i}", 4) for i in range(2000)]
    assert all(sorted(o) == [0, 1, 2, 3] for o in orders)
    # Each place holds the best one a quarter of the time: 500 of 2000, with a standard deviation of 19.
    assert all(abs(n - 500) < 100 for n in np.bincount([o.index(0) for o in orders]))


KEYS = np.unique(np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64))


@pytest.mark.parametrize(("holdout", "count"), [(1, 1), (37, 37), (999, 999), (0.25, 250), (0.0001, 1), (0.999, 999)])
def test_the_holdout_is_exact(holdout: float, count: int) -> None:
    limit = holdout_limit(KEYS, holdout)
    assert int((split_hashes(KEYS) < np.uint64(limit)).sum()) == count


def test_no_holdout_holds_nothing_out() -> None:
    assert holdout_limit(KEYS, None) == 0


@pytest.mark.parametrize("holdout", [1000, 5000, 0.9999])
def test_a_holdout_of_everything_is_refused(holdout: float) -> None:
    with pytest.raises(DataError, match="leaves nothing to train on"):
        holdout_limit(KEYS, holdout)


def test_the_holdout_does_not_follow_the_layout() -> None:
    held_out = split_hashes(KEYS) < np.uint64(holdout_limit(KEYS, 0.5))
    # Keys are sorted: a holdout that followed them would take one half. 250 expected here, standard deviation 11.
    assert abs(int(held_out[:500].sum()) - 250) < 60


@pytest.mark.parametrize("num_rows", [0, 1, WINDOW_ROWS, WINDOW_ROWS + 1, 10 * WINDOW_ROWS + 5, 10**9])
def test_windows_cover_all_hashes(num_rows: int) -> None:
    bounds = window_bounds(num_rows)
    assert len(bounds) - 1 == max(1, -(-num_rows // WINDOW_ROWS))
    assert (bounds[0], bounds[-1]) == (0, 2**64)
    sizes = [b - a for a, b in pairwise(bounds)]
    assert max(sizes) - min(sizes) <= 1


def test_window_edges_cut_sorted_keys_at_the_bounds() -> None:
    keys = np.array([0, 9, 10, 10, 19, 30, 2**64 - 1], dtype=np.uint64)
    assert window_edges([0, 10, 20, 30, 2**64], keys) == [0, 2, 5, 5, 7]
    assert window_edges([0, 2**64], keys) == [0, 7]
