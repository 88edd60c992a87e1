"""Score comparisons with any source and sum up. Called by the command line, by benchmarks and by tests with a fake.

read -> score, chunk by chunk -> logs of numbers -> figures
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

from rmray.errors import RowError
from rmray.evaluation.comparison import compare
from rmray.evaluation.figures import summarize
from rmray.evaluation.pair_log import PairLog
from rmray.evaluation.record import Evaluation, EvaluationSet
from rmray.evaluation.source import RewardSource
from rmray.evaluation.surface import SampledPairs
from rmray.evaluation.tokens import ScoreTokens, no_tokens
from rmray.models.scorer import ScorerInfo
from rmray.schema import Comparison, ScoreRequest, request_of_own_ids

Record = tuple[str, int, Comparison | RowError]
"""Row id, line in its file, and what was read there."""

COMPARISONS_AT_ONCE = 512


def evaluate(
    source: RewardSource,
    records: Iterable[Record],
    *,
    comparisons_at_once: int = COMPARISONS_AT_ONCE,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score every completion of every comparison with one source and compare all strictly ordered pairs.

    Memory is bounded by `comparisons_at_once` texts, and grows by some 70 bytes a pair. A bad row is counted and passed
    over; a completion that cannot be scored takes its pairs out, counted too. Token ids in the data are taken to be of
    the scorer's own tokenizer, as in training.

    seed: of the interval's resamples and of the calibration's coin flips. on_progress: told the rows read so far.
    Raises DataError, with the counts, where no pair could be scored.
    """
    [log] = score_records(
        [source], records, comparisons_at_once=comparisons_at_once, seed=seed, on_progress=on_progress
    )
    return summarize(log, source.info)


def score_records(
    sources: Sequence[RewardSource],
    records: Iterable[Record],
    *,
    comparisons_at_once: int = COMPARISONS_AT_ONCE,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> list[PairLog]:
    """The numbers of all pairs, a log for each source; the records are read once."""
    logs = [PairLog(seed=seed) for _ in sources]
    rows_left = iter(records)
    while rows := list(islice(rows_left, comparisons_at_once)):
        comparisons = [(row_id, record) for row_id, _, record in rows if isinstance(record, Comparison)]
        for source, log in zip(sources, logs, strict=True):
            for row_id, line, record in rows:
                if isinstance(record, RowError):
                    log.add_quarantined(record, default_where=f"{row_id}, line {line}")
            requests = [score_request(record, source.info.tokenizer_hash, row_id) for row_id, record in comparisons]
            for (row_id, record), response in zip(comparisons, source.score(requests), strict=True):
                log.add(row_id, record, response)
        if on_progress is not None:
            on_progress(logs[0].num_rows)
    return logs


def score_request(record: Comparison, tokenizer_hash: str, row_id: str | None = None) -> ScoreRequest:
    """The request that scores all completions of a comparison, in its order; its id is the row's."""
    return request_of_own_ids(record.prompt, record.completions, tokenizer_hash, tools=record.tools, id=row_id)


def side_by_side(
    infos: Sequence[ScorerInfo],
    logs: Sequence[PairLog],
    *,
    score_tokens: Sequence[ScoreTokens] = (),
    data: Sequence[str] = (),
    train: SampledPairs | None = None,
    seed: int = 0,
) -> EvaluationSet:
    """Figures of every model, and of the first one beside each other, from their logs.

    score_tokens: of each model, for the worst pairs. train: a sample of training pairs, for the surface baseline.
    Models of one name are told apart by their version. Raises DataError where a model scored no pair.
    """
    names = unique_names([(info.name, info.model_version) for info in infos])
    models = [
        replace(summarize(log, info, train=train, score_tokens=tokens), model_name=name)
        for info, log, tokens, name in zip(infos, logs, score_tokens or [no_tokens] * len(logs), names, strict=True)
    ]
    comparisons = [
        compare(logs[0], log, names=(names[0], name), seed=seed) for log, name in zip(logs[1:], names[1:], strict=True)
    ]
    return EvaluationSet(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=tuple(data),
        seed=seed,
        models=tuple(models),
        comparisons=tuple(comparisons),
    )


def unique_names(infos: Sequence[tuple[str, str]]) -> list[str]:
    """A name for each (name, version): the name, and what of the version (and of the place) it takes to differ."""
    names = [name for name, _ in infos]
    longer = [f"{name} ({version[:12]})" if names.count(name) > 1 else name for name, version in infos]
    return [f"{name} #{i + 1}" if longer.count(name) > 1 else name for i, name in enumerate(longer)]
