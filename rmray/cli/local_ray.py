"""A Ray of our own for the quickstart: started beside whatever else runs, used through the jobs API, shut down.

The only place where the command line touches Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmray.errors import ClusterError

QUICKSTART_CPUS = 8  # logical: Train reserves its workers' CPUs, Data and Serve need some of their own


@dataclass(frozen=True, slots=True)
class LocalRay:
    """address: of the cluster's head. dashboard_url: where jobs are submitted."""

    address: str
    dashboard_url: str

    def run_job(self, command: Sequence[str], *, env_vars: Mapping[str, str], show: Callable[[str], Any]) -> None:
        """Submit a Ray job, show its log line by line, return when it has succeeded; ClusterError when it has not."""
        from ray.job_submission import JobStatus, JobSubmissionClient

        client = JobSubmissionClient(self.dashboard_url)
        entrypoint = shlex.join(command)  # Ray gives it to a shell
        job_id = client.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": dict(env_vars)})
        asyncio.run(self._follow(client, job_id, show))
        info = client.get_job_info(job_id)
        if info.status != JobStatus.SUCCEEDED:
            why = str(info.message).partition(", last available logs")[0]  # the log has been shown already
            raise ClusterError(f"the job {job_id} ended as {info.status}", where=entrypoint, why=why)

    async def _follow(self, client: Any, job_id: str, show: Callable[[str], Any]) -> None:
        rest = ""
        async for chunk in client.tail_job_logs(job_id):
            *lines, rest = (rest + chunk).split("\n")
            for line in lines:
                show(line)
        if rest:
            show(rest)


@contextlib.contextmanager
def local_ray() -> Iterator[LocalRay]:
    """Start a local Ray with its jobs API, whatever cluster the environment points at; shut it down at the end."""
    import ray

    # An address in the environment would make the job join somebody else's cluster.
    saved = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_NAMESPACE") if name in os.environ}
    # Ray's jobs API looks for its own cluster in the temporary directory: in a shared one it may find another's.
    # Short, because the paths of sockets below it must stay under 108 bytes.
    temporary = tempfile.mkdtemp(prefix="rmray-", dir="/tmp")
    try:
        context = ray.init(
            address="local",
            _temp_dir=temporary,
            num_cpus=QUICKSTART_CPUS,
            num_gpus=0,
            include_dashboard=True,
            object_store_memory=256 * 2**20,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        try:
            yield LocalRay(ray.get_runtime_context().gcs_address, f"http://{context.dashboard_url}")
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.environ.update(saved)
