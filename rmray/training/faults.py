"""What made the workers give up, told to the driver through the run directory. Used by `fit`; no Ray.

An error of ours on a worker is written to RUN/fault.json, so that it reaches the user as it was and, as it would only
come again, costs no restarts: all ranks then end. Anything else (a killed process, a lost node) is left to Ray Train's
restarts.
"""

from __future__ import annotations

import json
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path

from rmray.errors import (
    BundleError,
    ClusterError,
    ConfigError,
    DataError,
    ModelError,
    RmrayError,
    RunError,
    TrainingError,
)

FAULT_FILE = "fault.json"
MAX_CHARS = 2000
COLLECTIVES = ("torch.distributed", "deepspeed")  # whose modules run them
KINDS: dict[str, type[RmrayError]] = {
    kind.__name__: kind
    for kind in (BundleError, ClusterError, ConfigError, DataError, ModelError, RunError, TrainingError)
}


def write_fault(run_dir: Path, error: RmrayError) -> None:
    """Keep an error for the driver; where several ranks fail, the first one's.

    Whole or not at all: the other ranks' failure may end this process at any moment.
    """
    path = run_dir / FAULT_FILE
    if path.exists():
        return
    details = {"what": error.what, "where": error.where, "why": error.why, "next_step": error.next_step}
    part = run_dir / f".{FAULT_FILE}.{uuid.uuid4().hex[:8]}"
    part.write_text(json.dumps({"kind": type(error).__name__, **details}))
    part.rename(path)


def has_fault(run_dir: Path) -> bool:
    return (run_dir / FAULT_FILE).exists()


def raise_fault(run_dir: Path) -> None:
    """Raise the error that was written, if one was."""
    path = run_dir / FAULT_FILE
    if path.exists():
        details = json.loads(path.read_text())
        raise KINDS.get(details.pop("kind"), TrainingError)(**details)


def forget_fault(run_dir: Path) -> None:
    (run_dir / FAULT_FILE).unlink(missing_ok=True)


def is_of_another_rank(error: BaseException) -> bool:
    """Whether a collective failed at the bottom of this, as where another rank is gone: then trying again helps."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = list(traceback.walk_tb(error.__traceback__))
    module = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return str(module).startswith(COLLECTIVES)


def what_failed(run_dir: Path, worker_failures: Mapping[int, Exception], summary: str) -> RmrayError:
    """What the user is told when the workers have given up. worker_failures: by rank."""
    try:
        raise_fault(run_dir)
    except RmrayError as error:
        return error
    rank, failure = next(iter(worker_failures.items()), (None, summary))
    text = str(failure)[-MAX_CHARS:]
    return TrainingError(
        "the workers failed again and again without getting to another checkpoint",
        where=str(run_dir),
        why=text if rank is None else f"rank {rank}: {text}",
        next_step="mend the cause and run the same command with --resume: it goes on from the newest checkpoint",
    )
