"""Ray clusters of several nodes on one machine, started as people start them, whose nodes tests kill."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.waiting import wait_for

RAY = str(Path(sys.executable).parent / "ray")
OBJECT_STORE_BYTES = 100 * 2**20
TOKEN = "a-token-of-this-suite-alone-0123456789"
START_TIMEOUT_S = 120.0


class Node:
    """One `ray start --block`, with everything below it."""

    def __init__(self, words: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self.node_id = secrets.token_hex(28)
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [RAY, "start", "--block", "--disable-usage-stats", *words],
                env={**os.environ, **environment, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": self.node_id},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        wait_for(lambda: "will now block" in self._log.read_text(), timeout_s=START_TIMEOUT_S, what="a node")

    def kill(self) -> None:
        """All of its processes at once, as when a machine goes."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            processes = [*root.children(recursive=True), root]
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=30)
        self._process.wait()


class Cluster:
    """A head, on a port of its own, and nodes that come and go. It asks for a token, as `environment` tells it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **environment}
        self.address = f"127.0.0.1:{_free_port()}"
        self.environment["RAY_ADDRESS"] = self.address
        self.nodes: list[Node] = []

    def start_head(self, cpus: int) -> None:
        """On the same address, where one was killed before."""
        port = self.address.partition(":")[2]
        words = ["--head", f"--port={port}", "--include-dashboard=false"]
        self.head = self._start([*words, f"--temp-dir={self._directory}"], cpus)
        self.head.wait_until_up()

    def add_node(self, cpus: int) -> Node:
        node = self._start([f"--address={self.address}"], cpus)
        node.wait_until_up()
        return node

    def close(self) -> None:
        for node in self.nodes:
            node.kill()

    def _start(self, words: list[str], cpus: int) -> Node:
        limits = [f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        node = Node([*words, *limits, *ports], environment, self._directory / f"node-{len(self.nodes)}.log")
        self.nodes.append(node)
        return node


@contextmanager
def cluster(*, cpus: int, environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """cpus: of the head. environment: of all its processes."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))  # short: names of sockets may not be long
    started = Cluster(directory, environment or {})
    try:
        started.start_head(cpus)
        yield started
    finally:
        started.close()
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
