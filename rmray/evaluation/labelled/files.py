"""Evaluate on files of labelled records. Called by `rmray evaluate` and by the trainer's report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

from rmray.data.sources import read_records
from rmray.errors import RowError
from rmray.evaluation.files import check_data, shown_names
from rmray.evaluation.labelled.log import LabelledLog
from rmray.evaluation.labelled.outcome import summarize_outcomes
from rmray.evaluation.labelled.process import summarize_processes
from rmray.evaluation.labelled.record import Kind, LabelledSet
from rmray.evaluation.labelled.run import LabelledRecord, score_labelled
from rmray.evaluation.labelled.words import LabelledText, sample_texts
from rmray.evaluation.source import RewardSource
from rmray.models.scorer import ScorerInfo
from rmray.schema import Comparison

SUMMARIES = {"outcome": summarize_outcomes, "process": summarize_processes}


def evaluate_labelled_files(
    source: RewardSource,
    data: Sequence[str],
    *,
    kind: Kind,
    columns: Mapping[str, str] | None = None,
    train: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> LabelledSet:
    """Figures of the source on all records of `data`: files, saved datasets or Hub ids.

    kind: of the records. train: files of such records that teach the bag-of-words baseline; without them there is none.
    The rest is as in `evaluation.files`. Raises ConfigError or DataError where a file cannot be read or holds nothing
    that could be scored.
    """
    check_data(data, columns)
    texts = read_texts(train, columns or {}, kind=kind) if train else None
    records = islice(read_labelled(data, columns or {}, kind=kind), limit)
    log = score_labelled(source, records, sample_texts=texts is not None, on_progress=on_progress)
    return labelled_set(source.info, log, kind=kind, data=shown_names(data), train=texts, seed=seed)


def labelled_set(
    info: ScorerInfo,
    log: LabelledLog,
    *,
    kind: Kind,
    data: Sequence[str] = (),
    train: list[LabelledText] | None = None,
    seed: int = 0,
) -> LabelledSet:
    """What evaluation.json holds, from a log. Raises DataError where no record was scored."""
    return LabelledSet(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=tuple(data),
        seed=seed,
        model=SUMMARIES[kind](log, info, train=train, seed=seed),
    )


def read_labelled(data: Sequence[str], columns: Mapping[str, str], *, kind: Kind) -> Iterator[LabelledRecord]:
    """(row id, line, record or the error of its row) of every source, one after the other."""
    for source in data:
        for row_id, line, record in read_records(source, objective=kind, columns=dict(columns)):
            if not isinstance(record, Comparison):
                yield row_id, line, record


def read_texts(train: Sequence[str], columns: Mapping[str, str], *, kind: Kind) -> list[LabelledText]:
    """A sample of the texts of `train`, for the bag-of-words baseline."""
    records = read_labelled(train, columns, kind=kind)
    return sample_texts((row_id, record) for row_id, _, record in records if not isinstance(record, RowError))
