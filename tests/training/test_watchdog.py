"""The watchdog fires when beats stay away, never while they come, and passes on notices. With a clock of its own."""

from __future__ import annotations

import threading

from rmray.training.watchdog import Watchdog, beating


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def watchdog(clock: Clock, hangs: list[tuple[str, float]]) -> Watchdog:
    return Watchdog(30.0, lambda doing, waited_s: hangs.append((doing, waited_s)), clock=clock)


def test_it_is_idle_before_the_first_beat() -> None:
    clock, hangs = Clock(), []
    dog = watchdog(clock, hangs)
    clock.now_s += 1000
    dog.look()
    assert hangs == []


def test_it_fires_only_where_nothing_came_for_the_whole_time() -> None:
    clock, hangs = Clock(), []
    dog = watchdog(clock, hangs)
    for item in beating(range(3), dog.beat, "a step"):
        clock.now_s += 29
        dog.look()
        assert item in range(3)
    clock.now_s += 30
    dog.look()
    assert hangs == []
    clock.now_s += 0.5
    dog.look()
    assert hangs == [("the data of a step", 30.5)]


def test_a_fetch_that_hangs_is_seen() -> None:
    clock, hangs = Clock(), []
    dog = watchdog(clock, hangs)
    items = iter(beating([1, 2], dog.beat, "step"))
    next(items)
    clock.now_s += 20
    next(items)  # beats after the first item and before the second
    clock.now_s += 29
    dog.look()
    assert hangs == []


def test_a_notice_goes_before_a_hang() -> None:
    told: list[str] = []
    dog = Watchdog(30.0, lambda *_: told.append("hang"), notice=lambda: "taken over", on_notice=told.append)
    dog.look()
    assert told == ["taken over"]


def test_the_thread_looks_by_itself_and_ends() -> None:
    fired = threading.Event()
    with Watchdog(0.02, lambda *_: fired.set()) as dog:
        dog.beat("nothing")
        assert fired.wait(10)
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
