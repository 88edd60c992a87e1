"""The retry decision: delays, hints, deadlines, and which of Ray's exceptions another attempt may mend."""

import pytest

from rmray.retry import Backoff, code_of_ray_error


def test_delays_grow_to_a_most_and_are_drawn_between_half_and_whole():
    backoff = Backoff(first_s=0.1, growth=2.0, most_s=0.5)
    assert [backoff.delay_s(i, left_s=9, jitter=1.0) for i in range(4)] == pytest.approx([0.1, 0.2, 0.4, 0.5])
    assert backoff.delay_s(1, left_s=9, jitter=0.0) == pytest.approx(0.1)
    assert backoff.delay_s(10_000, left_s=9, jitter=1.0) == pytest.approx(0.5)


def test_no_attempt_starts_after_the_deadline():
    assert Backoff(first_s=1.0).delay_s(0, left_s=1.0, jitter=1.0) is None
    assert Backoff(first_s=1.0).delay_s(0, left_s=1.1, jitter=1.0) == 1.0


def test_the_servers_hint_is_a_lower_bound_up_to_the_most():
    backoff = Backoff(first_s=0.1, most_s=2.0)
    assert backoff.delay_s(0, left_s=9, jitter=0.0, hint_s=1.5) == 1.5
    assert backoff.delay_s(0, left_s=9, jitter=0.0, hint_s=60.0) == 2.0
    assert backoff.delay_s(0, left_s=9, jitter=1.0, hint_s=0.0) == pytest.approx(0.1)


def test_rays_exceptions_by_what_they_mean():
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError, WorkerCrashedError
    from ray.serve._private.common import DeploymentID
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    assert code_of_ray_error(ActorDiedError()) == "replica_lost"
    assert code_of_ray_error(ActorUnavailableError("", None)) == "replica_lost"
    assert code_of_ray_error(WorkerCrashedError()) == "replica_lost"
    assert code_of_ray_error(DeploymentUnavailableError(DeploymentID(name="d", app_name="a"))) == "stale"
    assert code_of_ray_error(BackPressureError(1, 1)) == "overloaded"
    assert code_of_ray_error(ValueError()) is None
    task_error = RayTaskError("f", "traceback", ValueError("theirs"))
    assert code_of_ray_error(task_error) is None
    assert code_of_ray_error(task_error.as_instanceof_cause()) is None


def test_another_librarys_exception_of_the_same_name_is_no_ray_error():
    class ActorDiedError(Exception):
        pass

    assert code_of_ray_error(ActorDiedError()) is None
