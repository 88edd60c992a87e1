"""What a rank hears from outside: each notice is told once."""

from __future__ import annotations

from pathlib import Path

from rmray.training.notices import PREEMPTED, STOP, Notices, forget_stop, request_stop


def test_a_request_to_stop_is_told_once(tmp_path: Path) -> None:
    notices = Notices(tmp_path)
    assert notices.pending() == []
    request_stop(tmp_path)
    assert notices.pending() == [STOP]
    assert notices.pending() == [STOP]  # asking does not use it up
    notices.heard([STOP])
    assert notices.pending() == []


def test_preemption_is_told_once_and_beside_a_stop(tmp_path: Path) -> None:
    draining = []
    notices = Notices(tmp_path, preempted=lambda: bool(draining))
    assert notices.pending() == []
    draining.append("node")
    assert notices.pending() == [PREEMPTED]
    notices.heard([PREEMPTED])
    request_stop(tmp_path)
    assert notices.pending() == [STOP]
    notices.heard([STOP])
    assert notices.pending() == []


def test_what_another_rank_heard_first_is_not_told_again(tmp_path: Path) -> None:
    draining = []
    notices = Notices(tmp_path, preempted=lambda: bool(draining))
    notices.heard([PREEMPTED])
    draining.append("node")
    assert notices.pending() == []


def test_a_new_start_forgets_the_request_of_the_last(tmp_path: Path) -> None:
    request_stop(tmp_path)
    forget_stop(tmp_path)
    forget_stop(tmp_path)
    assert Notices(tmp_path).pending() == []
