"""The quickstart's job and its Ray, without starting one."""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rmray.cli.local_ray import LocalRay, local_ray
from rmray.errors import ClusterError


class Jobs:
    """Stands for Ray's JobSubmissionClient: every job ends as `status`, after a log in two pieces."""

    status = "SUCCEEDED"
    submitted: dict[str, Any]

    def __init__(self, address: str) -> None:
        pass

    def submit_job(self, **job: Any) -> str:
        Jobs.submitted = job
        return "job"

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for chunk in ("step 1\nst", "ep 2"):
            yield chunk

    def get_job_info(self, job_id: str) -> Any:
        return type("Info", (), {"status": self.status, "message": "exit code 2, last available logs: ..."})


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Jobs)


def test_a_command_reaches_the_shell_whole_and_its_log_comes_in_lines(jobs: None) -> None:
    command = ["/home/a b/python", "-m", "rmray", "train", "/home/a b/it's.yaml"]
    shown: list[str] = []
    LocalRay("", "").run_job(command, env_vars={"A": "1"}, show=shown.append)
    assert shlex.split(Jobs.submitted["entrypoint"]) == command
    assert Jobs.submitted["runtime_env"] == {"env_vars": {"A": "1"}}
    assert shown == ["step 1", "step 2"]


def test_a_job_that_fails_is_an_error(jobs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "status", "FAILED")
    with pytest.raises(ClusterError, match="FAILED") as caught:
        LocalRay("", "").run_job(["false"], env_vars={}, show=print)
    assert caught.value.why == "exit code 2"


def test_a_ray_that_does_not_start_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        assert "RAY_ADDRESS" not in os.environ
        raise RuntimeError("no room")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(RuntimeError, match="no room"), local_ray():
        pass
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379"
