"""The evaluation's door to Ray: score large sets over a cluster with Ray Data. Called by `rmray evaluate --workers`.

reader tasks (rows as they stand) -> pool of scoring actors (logs of numbers) -> merged on the driver

A log of a batch is some hundred bytes a pair and its worst texts. The driver merges it at once, and holds what one
process would.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy

from rmray.connect import connected
from rmray.data.execution import dataset_rows, quiet_data_context
from rmray.data.sources import InputFile, find_files, parse_row, record_from_row
from rmray.data.staging import raw_tables
from rmray.errors import RmrayError, RowError
from rmray.evaluation.pair_log import PairLog
from rmray.evaluation.run import Record, score_records
from rmray.evaluation.source import RewardSource
from rmray.models.scorer import ScorerInfo
from rmray.schema import Comparison

ROWS_AT_ONCE = 512
READER_CPUS = 0.25

OpenSources = Callable[[], Sequence[RewardSource]]
"""Opens the sources in an actor; picklable."""


def score_distributed(
    open_sources: OpenSources,
    data: Sequence[str],
    *,
    num_workers: int,
    cpus: float = 1,
    gpus: float = 0,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[ScorerInfo], list[PairLog]]:
    """Who answered, and the logs that `run.score_records` would make of all comparisons of `data`, one a source.

    num_workers: actors, each with `cpus` (and as many torch threads) and `gpus`. Files must be readable from every
    node. Joins or starts Ray as `connect` does. Raises what reading and opening raise.
    """
    files = [file for source in data for file in find_files(source)]
    read = partial(_read, files=files, columns=dict(columns or {}))
    with connected(), quiet_data_context():
        logs = (
            ray.data.from_items([{"index": i} for i in range(len(files))], override_num_blocks=len(files))
            .map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=READER_CPUS)
            .map_batches(
                _Scorer,
                batch_size=ROWS_AT_ONCE,
                batch_format="pyarrow",
                num_cpus=cpus,
                num_gpus=gpus,
                compute=ActorPoolStrategy(size=num_workers),
                fn_constructor_kwargs={
                    "open_sources": open_sources,
                    "files": [file.path for file in files],
                    "columns": dict(columns or {}),
                    "seed": seed,
                    "threads": max(1, int(cpus)),
                },
            )
        )
        whole: list[PairLog] = []
        infos: list[ScorerInfo] = []
        for row in dataset_rows(logs):
            part: _Part | RmrayError = pickle.loads(row["part"])
            if isinstance(part, RmrayError):
                raise part
            infos, whole = part.infos, whole or [PairLog(seed=seed) for _ in part.logs]
            for log, of_part in zip(whole, part.logs, strict=True):
                log.merge(of_part, place=part.first)
            if on_progress is not None:
                on_progress(whole[0].num_rows)
    return infos, whole


@dataclass(frozen=True, slots=True)
class _Part:
    """What came of a file's rows in a batch. first: which file that is, and the first row's line."""

    first: tuple[int, int]
    infos: list[ScorerInfo]
    logs: list[PairLog]


def _read(batch: Any, *, files: Sequence[InputFile], columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """All rows of one file, as they stand there."""
    yield from raw_tables(files[batch["index"][0].as_py()], "eval", columns)


class _Scorer:
    """One actor of the pool: keeps its sources, turns each batch of raw rows into their logs."""

    def __init__(
        self, open_sources: OpenSources, files: Sequence[str], columns: Mapping[str, str], seed: int, threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._open_sources, self._files, self._columns, self._seed = open_sources, files, columns, seed
        self._sources: Sequence[RewardSource] = ()

    def __call__(self, batch: pa.Table) -> dict[str, list[bytes]]:
        # Ray may put the end of one file and the beginning of another together, in any order.
        files = batch["file"].unique().to_pylist()
        try:
            parts: list[_Part | RmrayError] = [
                self._score(file, batch.filter(pc.equal(batch["file"], file)).sort_by("line")) for file in files
            ]
        except RmrayError as error:  # as data: Ray would bring a text of it alone
            parts = [error]
        return {"part": [pickle.dumps(part) for part in parts]}

    def _score(self, file: str, batch: pa.Table) -> _Part:
        # Not opened in the constructor: Ray would start an actor that fails there again.
        self._sources = self._sources or self._open_sources()
        rows = [row for row in batch.to_pylist() if row["line"]]  # line 0 is of a whole file
        records = [self._record(row) for row in rows]
        logs = score_records(self._sources, records, comparisons_at_once=ROWS_AT_ONCE, seed=self._seed)
        first = (self._files.index(file), rows[0]["line"] if rows else 0)
        return _Part(first, [source.info for source in self._sources], logs)

    def _record(self, row: Mapping[str, Any]) -> Record:
        where = f"{row['file']}, line {row['line']}"
        try:
            if row["code"] is not None:
                raise RowError(row["code"], row["reason"])
            record = record_from_row(parse_row(row["payload"]), objective="bradley_terry", columns=self._columns)
        except RowError as error:
            error.where = error.where or where
            return row["row_id"], row["line"], error
        assert isinstance(record, Comparison)
        return row["row_id"], row["line"], record
