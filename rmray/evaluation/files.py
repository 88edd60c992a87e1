"""Evaluate on preference files: sources opened, files read, here or over a cluster. Called by `rmray evaluate`, the
quickstart and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rmray.data.sources import check_source, find_files, read_records
from rmray.errors import DataError, RowError
from rmray.evaluation.record import EvaluationSet
from rmray.evaluation.run import Record, score_records, side_by_side
from rmray.evaluation.source import RewardSource, ScorerSource
from rmray.evaluation.surface import SampledPairs, sample_pairs
from rmray.evaluation.tokens import token_scorer
from rmray.schema import Comparison

if TYPE_CHECKING:
    import torch

# Ranking a comparison needs its order and nothing else, so all that compare are read the same kind of record.
_OBJECTIVE = "bradley_terry"


def open_bundle(
    bundle_dir: str | Path, *, device: torch.device | str | None = None, max_batch_tokens: int = 16384
) -> ScorerSource:
    """The bundle at `bundle_dir` as a source. device: None for a GPU where there is one. Raises BundleError."""
    from rmray.models.bundle import load_bundle
    from rmray.models.bundle.load import default_device

    return ScorerSource(load_bundle(bundle_dir, device=device or default_device()), max_batch_tokens=max_batch_tokens)


def evaluate_files(
    sources: Sequence[RewardSource],
    data: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    train: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> EvaluationSet:
    """Figures of the sources on all comparisons of `data`: files, saved datasets or Hub ids.

    columns: our column names to the files'. train: files of comparisons that teach the surface baseline; without them
    it learns from other folds of `data`. limit: so many comparisons at most. The rest is as in `run.evaluate`.
    Raises ConfigError or DataError where a file cannot be read or holds nothing that could be scored.
    """
    check_data(data, columns)
    sample = read_surface(train, columns or {}) if train else None
    records = islice(read_comparisons(data, columns or {}), limit)
    logs = score_records(sources, records, seed=seed, on_progress=on_progress)
    return side_by_side(
        [source.info for source in sources],
        logs,
        score_tokens=[token_scorer(source) for source in sources],
        data=shown_names(data),
        train=sample,
        seed=seed,
    )


def check_data(data: Sequence[str], columns: Mapping[str, str] | None) -> None:
    """Raise where a file is not there or the mapping is wrong: told before minutes of loading."""
    if not data:
        raise DataError("no data to evaluate on", next_step="name at least one file")
    check_source(_OBJECTIVE, columns or {})
    for source in data:
        find_files(source)


def shown_names(data: Sequence[str]) -> list[str]:
    """Names for a report: Hub ids and URLs as they are, of local paths the last part."""
    return [Path(source).name if Path(source).expanduser().exists() else source for source in data]


def read_comparisons(data: Sequence[str], columns: Mapping[str, str]) -> Iterator[Record]:
    """(row id, line, comparison or the error of its row) of every source, one after the other."""
    for source in data:
        for row_id, line, record in read_records(source, objective=_OBJECTIVE, columns=dict(columns)):
            if isinstance(record, Comparison | RowError):
                yield row_id, line, record


def read_surface(train: Sequence[str], columns: Mapping[str, str]) -> SampledPairs:
    """A sample of the pairs of `train`, for the surface baseline."""
    return sample_pairs(
        (row_id, record) for row_id, _, record in read_comparisons(train, columns) if isinstance(record, Comparison)
    )
