"""A Ray door: whether every node of the cluster sees and may write a directory. Called by `trainer` and `sweep`."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rmray.errors import ClusterError, RunError

ANSWER_TIMEOUT_S = 30.0  # a node may have to start a Python first
PATIENCE_S = 5.0  # network file systems show a new file late
SECONDS_BETWEEN_LOOKS = 0.2

Node = Mapping[str, Any]  # as ray.nodes() gives it


def check_seen_by_all(
    directory: Path,
    nodes: Sequence[Node],
    *,
    field: str = "run.storage",
    ask: Callable[[Path, Sequence[Node]], list[str | None]] | None = None,
) -> list[str]:
    """Look for a file, written in `directory` here, from every other node that is alive; what to warn of.

    nodes: as `ray.nodes()` gives them. field: the config field that names the directory, for messages. Raises
    ClusterError, naming the nodes, where one does not see it or may not write to it, and RunError where it cannot be
    written here. A node that does not answer within 30 s is only warned of: the run may do without it.
    """
    alive = [node for node in nodes if node["Alive"]]
    if len(alive) < 2:
        return []
    probe = directory / f".seen-{uuid.uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise RunError(f"{field} cannot be written", where=str(directory), why=str(error)) from error
    try:
        answers = (ask or _ask)(probe, alive)
    finally:
        probe.unlink(missing_ok=True)
    return judge(directory, field, {_name(node): answer for node, answer in zip(alive, answers, strict=True)})


def judge(directory: Path, field: str, answers: Mapping[str, str | None]) -> list[str]:
    """answers, by node: what was wrong there, "" for nothing, None where it did not answer. Raises ClusterError."""
    faults = [f"{node} {fault}" for node, fault in answers.items() if fault]
    if faults:
        raise ClusterError(
            f"{field} is not shared by all nodes of the cluster",
            where=str(directory),
            why="\n       ".join(faults),
            next_step=f"set {field} to a directory that every node sees under one path: a mounted network disk",
        )
    silent = [node for node, fault in answers.items() if fault is None]
    return [f"whether {field} ({directory}) is shared is not known of {', '.join(silent)}: no answer"] if silent else []


def look(probe: Path, patience_s: float = PATIENCE_S) -> str:
    """What is wrong with the file's directory on this machine; "" for nothing."""
    deadline = time.monotonic() + patience_s
    while not probe.exists():
        if time.monotonic() >= deadline:
            return "does not see a file that was written there"
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return "" if os.access(probe.parent, os.W_OK) else "sees it, but may not write to it"


def _ask(probe: Path, nodes: Sequence[Node]) -> list[str | None]:
    """What each node answers; None where it does not."""
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    references = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(probe)
        for node in nodes
    ]
    ready, late = ray.wait(references, num_returns=len(references), timeout=ANSWER_TIMEOUT_S)
    for reference in late:
        ray.cancel(reference, force=True)
    return [_answer(reference) if reference in ready else None for reference in references]


def _answer(reference: Any) -> str | None:
    try:
        return str(ray.get(reference))
    except ray.exceptions.RayError:  # the node went away
        return None


def _name(node: Node) -> str:
    return f"node {node.get('NodeManagerHostname') or node['NodeID'][:8]} ({node.get('NodeManagerAddress', '?')})"
