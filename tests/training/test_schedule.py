"""The learning rate against values worked out by hand."""

from __future__ import annotations

import pytest

from rmray.training.schedule import learning_rate, num_warmup_steps


def rates(shape: str, total: int, ratio: float) -> list[float]:
    return [learning_rate(s, total_steps=total, peak=2.0, warmup_ratio=ratio, shape=shape) for s in range(total)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [1.0, 2.0, 2.0, 1.5, 1.0, 0.5]),
        ("cosine", [1.0, 2.0, 2.0, 1.0 + 0.5**0.5, 1.0, 1.0 - 0.5**0.5]),
        ("constant", [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
    ],
)
def test_shapes(shape: str, expected: list[float]) -> None:
    assert rates(shape, 6, 0.3) == pytest.approx(expected)


def test_warmup_is_at_most_a_hundred_steps() -> None:
    assert num_warmup_steps(1000, 0.03) == 30
    assert num_warmup_steps(10, 0.03) == 1
    assert num_warmup_steps(100_000, 0.03) == 100
    assert num_warmup_steps(10, 0.0) == 0


def test_no_step_is_wasted_and_the_peak_is_never_passed() -> None:
    for shape in ("linear", "cosine", "constant"):
        for total in (1, 2, 7, 400):
            assert all(0 < rate <= 2.0 for rate in rates(shape, total, 0.03))


def test_a_step_outside_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        learning_rate(6, total_steps=6, peak=1.0, warmup_ratio=0.0, shape="linear")
