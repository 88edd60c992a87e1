"""Evaluate a bundle on preference files. Called by `rmray evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from rmray.data.sources import check_source, find_files, read_records
from rmray.errors import DataError, RowError
from rmray.evaluation.record import Evaluation
from rmray.evaluation.run import Record, evaluate
from rmray.models.bundle import load_bundle
from rmray.models.bundle.load import default_device
from rmray.schema import Comparison

# Ranking a comparison needs its order and nothing else, so every bundle is read the same kind of record.
_OBJECTIVE = "bradley_terry"


def evaluate_bundle(
    bundle_dir: str | Path,
    data: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    device: torch.device | str | None = None,
    max_batch_tokens: int = 16384,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Figures of the bundle at `bundle_dir` on all comparisons of `data`: files, saved datasets or Hub ids.

    columns: our column names to the files'. device: None for a GPU where there is one. The rest is as in `evaluate`.
    Raises BundleError where the bundle must not be used, and ConfigError or DataError where a source cannot be read or
    holds nothing that could be scored.
    """
    if not data:
        raise DataError("no data to evaluate on", next_step="name at least one preference file")
    check_source(_OBJECTIVE, columns or {})
    for source in data:  # a mistyped name is told before minutes of loading
        find_files(source)
    return evaluate(
        load_bundle(bundle_dir, device=device or default_device()),
        read_comparisons(data, columns or {}),
        max_batch_tokens=max_batch_tokens,
        seed=seed,
        on_progress=on_progress,
    )


def read_comparisons(data: Sequence[str], columns: Mapping[str, str]) -> Iterator[Record]:
    """(row id, line, comparison or the error of its row) of every source, one after the other."""
    for source in data:
        for row_id, line, record in read_records(source, objective=_OBJECTIVE, columns=dict(columns)):
            if isinstance(record, Comparison | RowError):
                yield row_id, line, record
