"""Small engines, their states, and storages that wait or fail on command: what the suites of checkpoints share."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from rmray.training.checkpoint import CheckpointStore, CheckpointWriter, TrainingState
from rmray.training.checkpoint.files import Files
from rmray.training.checkpoint.layout import Facts
from rmray.training.engine import EngineSettings, TorchEngine
from tests.training.toys import ToyBackbone, toy_step

WAIT_S = 60.0  # bounds every wait; never reached where the code is right


def trained(updates: int = 2) -> TorchEngine:
    engine = TorchEngine(lambda gather: ToyBackbone(), EngineSettings())
    train(engine, updates)
    return engine


def train(engine: Any, updates: int) -> None:
    for step in range(updates):
        scores = engine.forward(toy_step(step, 1)[0])
        engine.backward(torch.nn.functional.softplus(scores[1] - scores[0]), last=True)
        engine.updates += bool(engine.step(0.1).applied)


def state_at(step: int, *, updates: int = 2, accuracy: float | None = None, **fields: Any) -> TrainingState:
    evaluation = None if accuracy is None else {"eval_accuracy": accuracy, "eval_loss": 0.5}
    return TrainingState(step, 0, updates, 0, 7, {"data": "abc"}, evaluation=evaluation, **fields)


def save_extras(model_dir: Path) -> None:
    (model_dir / "config.json").write_text("{}")


def make_writer(engine: Any, store: CheckpointStore | Path | str, **settings: Any) -> CheckpointWriter:
    store = store if isinstance(store, CheckpointStore) else CheckpointStore(store)
    defaults = {"keep": 3, "keep_best": True, "background": False, "save_model_extras": save_extras}
    return CheckpointWriter(engine, store, **{**defaults, **settings})


def save(engine: Any, store: CheckpointStore | Path | str, step: int, **settings: Any) -> None:
    """One save, to its end."""
    writer = make_writer(engine, store, **settings)
    writer.save(state_at(step, updates=engine.updates))
    writer.finish()


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


class GatedFiles(Files):
    """Waits before it writes a file whose name contains `gated`, until the gate is opened."""

    def __init__(self, where: str | Path, gated: str) -> None:
        super().__init__(where)
        self.gated = gated
        self.gate, self.reached = threading.Event(), threading.Event()

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> Facts:
        if self.gated in name:
            self.reached.set()
            assert self.gate.wait(WAIT_S)
        return super().write(name, pieces)


class FailingFiles(Files):
    """Fails to write a file whose name contains `fails`; None for none. A disk is left with a part of it."""

    def __init__(self, where: str | Path, fails: str | None = None) -> None:
        super().__init__(where)
        self.fails = fails

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> Facts:
        if self.fails and self.fails in name:
            if self.local:
                super().write(name, [b"a part of it"])
            raise OSError(28, "No space left on device")
        return super().write(name, pieces)
