"""Where a run's files lie, settled where it is submitted: absolute paths, and whether they outlive the job. No Ray.

Called by `trainer`, `worker` and `sweep`. A job submitted to a cluster runs in a copy of its working directory that Ray
unpacks on each node and may delete when the job has ended: what it writes there is lost, other nodes never see it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rmray.config.train import TrainConfig

# Set by Ray for the command of a submitted job; its metadata holds the job's submission id.
JOB_VARIABLE, JOB_ID_KEY = "RAY_JOB_CONFIG_JSON_ENV_VAR", "job_submission_id"
CHECKPOINTS_DIR = "checkpoints"
UNPACKED = ("runtime_resources", "working_dir_files")  # where a Ray session unpacks working directories
ADVICE = "give an absolute path that every node sees, such as a mounted network disk"


def checkpoint_place(config: TrainConfig) -> str:
    """Where a run's checkpoints are: in its directory, or under its name in `checkpoint.storage`."""
    storage, name = config.checkpoint.storage, config.run.name
    if storage is None:
        return str(Path(config.run.storage) / name / CHECKPOINTS_DIR)
    path, question, query = storage.partition("?") if is_url(storage) else (storage, "", "")
    return f"{path.rstrip('/')}/{name}{question}{query}"


def is_url(name: str) -> bool:
    return "://" in name


def with_absolute_paths(config: TrainConfig, directory: Path | None = None) -> TrainConfig:
    """Workers run in another folder: what is a path in `directory` (the current one) becomes an absolute one."""
    here = directory or Path.cwd()

    def resolved(name: str) -> str:
        return str((here / Path(name).expanduser()).resolve())

    def if_there(name: str) -> str:  # else a Hub id, or what its reader will tell of
        return resolved(name) if (here / Path(name).expanduser()).exists() else name

    kept = config.checkpoint.storage
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"storage": resolved(config.run.storage)}),
            "data": config.data.model_copy(
                update={split: [if_there(name) for name in getattr(config.data, split)] for split in ("train", "eval")}
                | {"reference": config.data.reference and resolved(config.data.reference)}
            ),
            "model": config.model.model_copy(update={"base": if_there(config.model.base)}),
            "checkpoint": config.checkpoint.model_copy(
                update={"storage": kept if kept is None or is_url(kept) else resolved(kept)}
            ),
        }
    )


def storage_warnings(config: TrainConfig, *, directory: Path, environ: Mapping[str, str]) -> list[str]:
    """What to tell before a run starts: storage, as the config has it, that would vanish or is somewhere unexpected.

    directory: the working directory. environ: this process's environment. A local path outside a job is left to
    `storage_check`, which looks from the other nodes.
    """
    fields = {"run.storage": config.run.storage, "checkpoint.storage": config.checkpoint.storage}
    found = []
    for field, name in fields.items():
        if name is None or is_url(name):
            continue
        path = directory / Path(name).expanduser()
        if in_unpacked_copy(path.resolve()):
            found.append(
                f"{field} is {name!r}, which lies in the job's temporary copy of its working directory "
                f"({path.resolve()}): each node has another copy, and Ray deletes them after the job. "
                f"Nothing of the run would be left: {ADVICE}"
            )
        elif not Path(name).expanduser().is_absolute() and in_submitted_job(environ):
            found.append(
                f"{field} is {name!r}, a relative path in a submitted job: it became {path.resolve()} on the node that "
                f"runs the job's command. To be sure of where it lies, {ADVICE}"
            )
    return found


def in_submitted_job(environ: Mapping[str, str]) -> bool:
    """Whether this process is the command of a job that was submitted to a cluster."""
    try:
        return JOB_ID_KEY in json.loads(environ.get(JOB_VARIABLE, "{}")).get("metadata", {})
    except (ValueError, AttributeError, TypeError):
        return False


def in_unpacked_copy(path: Path) -> bool:
    """Whether a path lies in a working directory that Ray has unpacked."""
    return any(pair == UNPACKED for pair in zip(path.parts, path.parts[1:], strict=False))
