"""How preparing and planning grow with the number of rows: seconds and memory. Called by `growth`."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rmray.benchmark.conversations import PAIRS_FILE, texts_of, write_conversations
from rmray.benchmark.simulated_set import SimulatedSet
from rmray.benchmark.timing import PeakMemory

POLL_S = 0.1
MAX_LENGTH = 1024
VOCAB_SIZE, NUM_TEXTS = 1024, 2000
PLANNED_RANKS, PLANNED_BATCH, PLANNED_TOKENS = 2, 64, 16_384


@dataclass(frozen=True, slots=True)
class DataSettings:
    """rows: sizes to measure. prepare: through Ray, from JSONL; planning needs no Ray."""

    rows: tuple[int, ...] = (1_000, 4_000, 16_000)
    prepare: bool = True

    @staticmethod
    def quick() -> DataSettings:
        return DataSettings(rows=(200, 400), prepare=False)


@dataclass(frozen=True, slots=True)
class DataCell:
    """prepare_*: from JSONL to a prepared set on a Ray that runs already; bytes: the most memory of their own that all
    of Ray's processes had together. plan_*: all steps of an epoch, read and cut for two ranks. None: not measured."""

    num_rows: int
    prepare_s: float | None
    prepare_bytes: int | None
    plan_s: float
    plan_bytes: int | None


def measure_data(
    settings: DataSettings, *, seed: int, say: Callable[[str], None], note: Callable[[str], None]
) -> list[DataCell]:
    """One cell a size. note: told what is left out."""
    with_ray = settings.prepare and importlib.util.find_spec("ray") is not None
    if not with_ray:
        note("preparing was left out: " + ("Ray is not installed" if settings.prepare else "it was not asked for"))
    prepared = dict(_measure_prepare(settings.rows, seed, say)) if with_ray else {}
    cells = []
    for num_rows in settings.rows:
        say(f"planning {num_rows:,} rows")
        plan_s, plan_bytes = _measure_plan(num_rows, seed)
        prepare_s, prepare_bytes = prepared.get(num_rows, (None, None))
        cells.append(DataCell(num_rows, prepare_s, prepare_bytes, plan_s, plan_bytes))
    return cells


def _measure_plan(num_rows: int, seed: int) -> tuple[float, int | None]:
    from rmray.data.chunks import ChunkPlanner, StepSource, chunk_bounds, count_steps

    with tempfile.TemporaryDirectory() as directory:
        SimulatedSet(num_rows, MAX_LENGTH, seed).write(Path(directory), vocab_size=VOCAB_SIZE)
        source = StepSource(directory, seed, PLANNED_BATCH, PLANNED_TOKENS)
        memory, start_s = PeakMemory("cpu"), time.perf_counter()
        planner = ChunkPlanner(source)
        for first, stop in chunk_bounds(0, count_steps(source).num_steps):
            for _ in planner.plan(first, stop, world_size=PLANNED_RANKS):
                pass
        return time.perf_counter() - start_s, memory.read()


def _measure_prepare(
    sizes: tuple[int, ...], seed: int, say: Callable[[str], None]
) -> list[tuple[int, tuple[float, int]]]:
    from rmray.config.train import DataConfig
    from rmray.connect import connected
    from rmray.data.prepare import prepare
    from rmray.data.render import RenderRules
    from rmray.models.tiny_base import train_tokenizer

    measured = []
    with tempfile.TemporaryDirectory() as root, connected(log_to_driver=False):
        for num_rows in sizes:
            say(f"preparing {num_rows:,} rows")
            directory = Path(root, str(num_rows))
            rows = write_conversations(directory, num_pairs=num_rows, seed=seed)
            tokenizer = train_tokenizer(texts_of(rows[:NUM_TEXTS]), vocab_size=VOCAB_SIZE, max_length=MAX_LENGTH)
            tokenizer.save_pretrained(directory / "tokenizer")
            with MemoryOfChildren() as memory:
                start_s = time.perf_counter()
                prepare(
                    DataConfig(train=[str(directory / PAIRS_FILE)], max_length=MAX_LENGTH),
                    tokenizer_dir=str(directory / "tokenizer"),
                    output_root=str(directory / "prepared"),
                    rules=RenderRules.for_tokenizer(tokenizer, max_length=MAX_LENGTH),
                    objective="bradley_terry",
                )
                seconds = time.perf_counter() - start_s
            measured.append((num_rows, (seconds, memory.peak_bytes)))
    return measured


class MemoryOfChildren:
    """The most memory of their own (neither files nor the object store) that this process and all below it had at once,
    looked at every POLL_S. Linux; 0 elsewhere."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryOfChildren:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            pids = [me.pid, *(child.pid for child in me.children(recursive=True))]
            self.peak_bytes = max(self.peak_bytes, sum(map(_own_bytes, pids)))
            if self._done.wait(POLL_S):
                return


def _own_bytes(pid: int) -> int:
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has ended
        return 0
    return 1024 * int(found[1]) if found else 0
