"""The order of rows: closed forms, and the promises that hold for every set, batch size, seed and epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rmray.data.order import StepCount, WindowOrder, hash_row_ids, order_window, order_windows


def epoch_steps(windows: list[list[int]], *, batch: int, seed: int = 0, epoch: int = 0) -> dict[int, list[int]]:
    """Step -> prompt keys of its rows, by walking all windows; the rows' keys say which prompt each is of."""
    sequence = order_windows(np.array([len(keys) for keys in windows]), seed=seed, epoch=epoch)
    steps: dict[int, list[int]] = {}
    for place, window in enumerate(sequence.windows_W.tolist()):
        order = window_order(windows[window], window, int(sequence.starts_W1[place]), batch, seed, epoch)
        for row, step in zip(order.rows_N.tolist(), order.steps_N.tolist(), strict=True):
            steps.setdefault(step, []).append(windows[window][row])
    return steps


def window_order(
    keys: list[int], window: int, first_position: int, batch: int, seed: int = 0, epoch: int = 0
) -> WindowOrder:
    return order_window(
        np.array(keys, dtype=np.uint64),
        seed=seed,
        epoch=epoch,
        window=window,
        first_position=first_position,
        global_batch_size=batch,
    )


def test_steps_of_a_run_are_counted_by_arithmetic():
    steps = StepCount(num_rows=10, global_batch_size=4, epochs=3)
    assert (steps.steps_per_epoch, steps.num_steps) == (3, 9)
    assert [steps.locate(step) for step in (0, 2, 3, 8)] == [(0, 0), (0, 2), (1, 0), (2, 2)]
    assert StepCount(10, 4, epochs=3, max_steps=5).num_steps == 5
    assert StepCount(10, 4, epochs=3, max_steps=50).num_steps == 9
    assert StepCount(8, 4).num_steps == 2


def test_single_row_prompts_fill_steps_exactly_and_the_last_is_partial():
    order = window_order(list(range(10)), 0, 0, batch=4)
    assert order.steps_N.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert sorted(order.rows_N.tolist()) == list(range(10))


def test_a_prompt_goes_whole_to_the_step_of_its_last_row():
    # Three rows of one prompt at positions 3 to 5, steps of 4: all belong to step 1, whose positions are 4 to 7.
    order = window_order([7, 7, 7], 0, 3, batch=4)
    assert order.steps_N.tolist() == [1, 1, 1]


def test_a_prompt_with_more_rows_than_a_step_is_cut_into_runs_of_a_step():
    order = window_order([7] * 10, 0, 1, batch=4)  # positions 1 to 10; runs end at 4, 8 and 10
    assert order.steps_N.tolist() == [1] * 4 + [2] * 4 + [2] * 2
    assert order.rows_N.tolist() == list(range(10))  # inside a prompt the layout's order stays


def test_windows_that_hold_a_range_of_positions():
    sequence = order_windows(np.array([3, 3, 3]), seed=0, epoch=0)
    assert sequence.overlapping(0, 3) == range(1)
    assert sequence.overlapping(2, 4) == range(2)
    assert sequence.overlapping(3, 9) == range(1, 3)
    assert sequence.overlapping(8, 12) == range(2, 3)


@settings(max_examples=200, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    num_windows=st.integers(1, 5),
    batch=st.integers(1, 12),
    seed=st.integers(-5, 2**70),
    epoch=st.integers(0, 3),
)
def test_every_row_once_prompts_whole_and_no_step_empty(prompts, num_windows, batch, seed, epoch):
    windows = [
        [key for key, rows in enumerate(prompts) if key % num_windows == window for _ in range(rows)]
        for window in range(num_windows)
    ]  # some may be empty
    steps = epoch_steps(windows, batch=batch, seed=seed, epoch=epoch)
    num_rows = sum(prompts)
    assert sorted(steps) == list(range(-(-num_rows // batch)))
    assert Counter(key for keys in steps.values() for key in keys) == Counter(dict(enumerate(prompts)))
    for key, rows in enumerate(prompts):
        holding = [step for step, keys in steps.items() if key in keys]
        if rows <= batch:
            assert len(holding) == 1
    assert max(map(len, steps.values())) < batch + min(batch, max(prompts))


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 0),
    batch=st.integers(1, 9),
)
def test_a_range_of_steps_is_found_without_walking_the_epoch(sizes, batch):
    keys = iter(range(10**6))
    windows = [[next(keys) // 2 for _ in range(size)] for size in sizes]
    whole = epoch_steps(windows, batch=batch, seed=3)
    sequence = order_windows(np.array(sizes), seed=3, epoch=0)
    for step, expected in whole.items():
        found: list[int] = []
        for place in sequence.overlapping(step * batch, (step + 1) * batch):
            window = int(sequence.windows_W[place])
            order = window_order(windows[window], window, int(sequence.starts_W1[place]), batch, seed=3)
            found += [windows[window][row] for row in order.rows_N[order.slice_of(step, step + 1)].tolist()]
        assert found == expected


def test_seed_and_epoch_change_the_order_of_windows_and_of_prompts():
    windows = [list(range(start, start + 50)) for start in range(0, 500, 50)]
    orders = [
        [key for _, keys in sorted(epoch_steps(windows, batch=8, seed=seed, epoch=epoch).items()) for key in keys]
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == [
        key for _, keys in sorted(epoch_steps(windows, batch=8).items()) for key in keys
    ]  # and nothing else does
    inside = [[key % 50 for key in order if key < 50] for order in orders]
    assert len({tuple(keys) for keys in inside}) == 4


def test_the_layout_inside_a_window_does_not_change_which_prompts_make_a_step():
    keys = [5, 5, 9, 1, 1, 1, 3, 8, 2, 2]
    one, other = window_order(keys, 0, 0, batch=3), window_order(keys[::-1], 0, 0, batch=3)
    assert [keys[row] for row in one.rows_N] == [keys[::-1][row] for row in other.rows_N]


def test_the_order_is_the_one_that_older_runs_were_trained_in():
    # A change here would make resumed runs go on with other batches: it needs a new format of prepared sets.
    assert order_windows(np.array([4, 4, 4, 4, 4]), seed=17, epoch=2).windows_W.tolist() == [4, 2, 1, 3, 0]
    assert window_order(list(range(8)), 3, 0, 4, seed=17, epoch=2).rows_N.tolist() == [3, 2, 1, 7, 4, 6, 5, 0]


def test_the_shuffle_is_even():
    # Each of 100 prompts should open the epoch about equally often over 20,000 seeds (chi-square, 99 d.o.f.: 99.9 %
    # lie under 149).
    keys = np.arange(100, dtype=np.uint64)
    firsts = Counter(
        int(order_window(keys, seed=s, epoch=0, window=0, first_position=0, global_batch_size=8).rows_N[0])
        for s in range(20_000)
    )
    assert sum((firsts[key] - 200) ** 2 / 200 for key in range(100)) < 149


def test_hash_of_row_ids_forgets_order_and_nothing_else():
    assert hash_row_ids(["f:1", "f:2"]) == hash_row_ids(["f:2", "f:1"])
    assert len({hash_row_ids(ids) for ids in [[], ["f:1"], ["f:1", "f:1"], ["f:1", "f:2"], ["f:12"]]}) == 5
    assert hash_row_ids([]) == "e3b0c44298fc1c14"
