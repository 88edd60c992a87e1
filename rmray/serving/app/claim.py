"""One process at a time puts versions behind a name. Called by `deploy` and `versions`.

Two that start the same version would take down each other's app, and one that promotes what another replaces would
leave the name pointing to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from rmray.config.serve import RAY_NAMESPACE
from rmray.errors import ClusterError


class _Claim:
    """Its name is the claim. Not detached: it dies with whoever made it, killed or not."""


@contextmanager
def claimed(name: str) -> Iterator[None]:
    """ClusterError where another process is at work on the name."""
    try:
        options: dict[str, Any] = {"name": f"deploying {name}", "namespace": RAY_NAMESPACE, "num_cpus": 0}
        claim: Any = ray.remote(_Claim).options(**options).remote()
    except ValueError:
        raise ClusterError(
            f"another deployment of {name!r} is under way on this cluster",
            next_step="wait until it has ended, or end it, and try again",
        ) from None
    try:
        yield
    finally:
        ray.kill(claim)
