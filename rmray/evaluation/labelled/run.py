"""Score labelled records with any source. Called by `files` and by tests with a fake.

read -> score, chunk by chunk -> a log of numbers
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from rmray.errors import RowError
from rmray.evaluation.labelled.answer import LabelledExample
from rmray.evaluation.labelled.log import LabelledLog
from rmray.evaluation.source import RewardSource
from rmray.schema import request_of

LabelledRecord = tuple[str, int, LabelledExample | RowError]
"""Row id, line in its file, and what was read there."""

RECORDS_AT_ONCE = 512


def score_labelled(
    source: RewardSource,
    records: Iterable[LabelledRecord],
    *,
    records_at_once: int = RECORDS_AT_ONCE,
    sample_texts: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> LabelledLog:
    """The numbers of all records, one completion a request.

    Memory is bounded by `records_at_once` texts, and grows by some 50 bytes a record. A bad row is counted and passed
    over, as is one that gets no probabilities. sample_texts: for the bag-of-words baseline. on_progress: told the rows
    read so far.
    """
    log = LabelledLog(sample_texts=sample_texts)
    rows_left = iter(records)
    while rows := list(islice(rows_left, records_at_once)):
        requests = [
            request_of(record, source.info.tokenizer_hash, id=row_id)
            for row_id, _, record in rows
            if not isinstance(record, RowError)
        ]
        responses = iter(source.score(requests))
        for row_id, line, record in rows:
            if isinstance(record, RowError):
                log.add_quarantined(record, default_where=f"{row_id}, line {line}")
            else:
                [result] = next(responses).results
                log.add(row_id, record, result)
        if on_progress is not None:
            on_progress(log.num_rows)
    return log
