"""Batches made one step ahead: nothing is lost, nothing out of order, and an error waits for its turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from rmray.data.shares import StepShare
from rmray.errors import RowError
from rmray.training.collate import collated
from rmray.training.objective import Objective
from tests.training.test_step import row, share

CPU = torch.device("cpu")


def steps(count: int) -> list[StepShare]:
    return [share([row(f"r{i}", (i, i + 1))], [], step=i) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_share_comes_once_in_order_with_its_batches(count: int) -> None:
    shares = steps(count)
    came = list(collated(shares, Objective(), pooling="last", device=CPU))
    assert [s for s, _ in came] == shares
    for own, micro_batches in came:
        assert [m.batch.token_ids_T.tolist() for m in micro_batches] == [[own.step, own.step + 1], []]
        assert [m.targets.chosen_P.tolist() for m in micro_batches] == [[0], []]


def test_the_next_share_is_fetched_during_a_step_and_no_further() -> None:
    fetched = [threading.Event() for _ in range(4)]

    def source() -> Iterator[StepShare]:
        for one in steps(4):
            fetched[one.step].set()
            yield one

    batches = collated(source(), Objective(), pooling="last", device=CPU)
    for step in range(3):
        next(batches)
        assert fetched[step + 1].wait(timeout=60)  # while the caller has not asked for it
        assert not any(event.is_set() for event in fetched[step + 2 :])


def test_whoever_leaves_early_does_not_wait_for_data() -> None:
    never = threading.Event()

    def source() -> Iterator[StepShare]:
        yield from steps(1)
        never.wait(timeout=600)

    batches = collated(source(), Objective(), pooling="last", device=CPU)
    assert next(batches)[0].step == 0
    batches.close()
    assert not never.is_set()
    never.set()


def test_an_error_of_the_data_comes_after_the_steps_before_it() -> None:
    def source() -> Iterator[StepShare]:
        yield from steps(2)
        raise OSError("gone")

    batches = collated(source(), Objective(), pooling="last", device=CPU)
    assert [next(batches)[0].step for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_an_error_of_collation_is_raised_in_its_step() -> None:
    shares = [share([row("sound", (0, 1), margin=0.0)]), share([row("none", (0, 1))], step=1)]
    batches = collated(shares, Objective(margin="data"), pooling="last", device=CPU)
    assert next(batches)[0].step == 0
    with pytest.raises(RowError, match="no `margin`"):
        next(batches)
