"""Score comparisons with any Scorer and sum up. Called by the command line, by benchmarks and by tests with a fake.

Legend: P pairs.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice

import numpy as np

from rmray.data.keys import prompt_key
from rmray.data.pairs import pairs_of
from rmray.errors import DataError, RowError
from rmray.evaluation.record import Evaluation, reading_notes
from rmray.metrics.bias import length_rule
from rmray.metrics.calibration import chosen_is_first
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.summary import pair_metrics
from rmray.models.scorer import Scorer, score_requests
from rmray.schema import Comparison, ItemResult, ScoreFailure, ScoreRequest, ScoreResponse, TokenIds, num_chars

Record = tuple[str, int, Comparison | RowError]
"""Row id, line in its file, and what was read there."""

COMPARISONS_AT_ONCE = 512
_LARGEST_SCORE = float(np.finfo(np.float32).max)  # heads are float32: beyond it a score is an overflow


def evaluate(
    scorer: Scorer,
    records: Iterable[Record],
    *,
    max_batch_tokens: int = 16384,
    comparisons_at_once: int = COMPARISONS_AT_ONCE,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score every completion of every comparison and compare all strictly ordered pairs.

    Memory is bounded by `comparisons_at_once` texts, plus some 40 bytes a pair and 100 bytes a prompt. A bad row is
    counted and passed over; a completion that cannot be scored takes its pairs out, counted too. Token ids in the data
    are taken to be of the scorer's own tokenizer, as in training.

    seed: of the interval's resamples and of the calibration's coin flips. on_progress: told the rows read so far.
    Raises DataError, with the counts, where no pair could be scored.
    """
    log = _PairLog(seed)
    source = iter(records)
    while rows := list(islice(source, comparisons_at_once)):
        comparisons = [(row_id, record) for row_id, _, record in rows if isinstance(record, Comparison)]
        for row_id, line, record in rows:
            if isinstance(record, RowError):
                log.add_quarantined(record, default_where=f"{row_id}, line {line}")
        requests = [score_request(record, scorer.info.tokenizer_hash) for _, record in comparisons]
        responses = score_requests(scorer, requests, max_batch_tokens=max_batch_tokens)
        for (row_id, record), response in zip(comparisons, responses, strict=True):
            log.add(row_id, record, response)
        if on_progress is not None:
            on_progress(log.num_rows)
    return log.summarize(scorer)


def score_request(record: Comparison, tokenizer_hash: str) -> ScoreRequest:
    """The request that scores all completions of a comparison, in its order."""
    has_ids = any(isinstance(content, TokenIds) for content in (record.prompt, *record.completions))
    return ScoreRequest(
        prompt=record.prompt,
        completions=record.completions,
        tokenizer_hash=tokenizer_hash if has_ids else None,
        tools=record.tools,
    )


class _PairLog:
    """Numbers of all pairs so far; texts are not kept."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.comparisons = self.unordered = self.unscored_pairs = 0
        self.quarantined: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.prompt_numbers: dict[int, int] = {}
        self.prompts_P, self.first_P = array("q"), array("b")
        self.chosen_P, self.rejected_P = array("d"), array("d")
        self.chosen_chars_P, self.rejected_chars_P = array("q"), array("q")

    @property
    def num_rows(self) -> int:
        return self.comparisons + self.quarantined.total()

    def add_quarantined(self, error: RowError, *, default_where: str) -> None:
        self.quarantined[error.code] += 1
        self.examples.setdefault(f"quarantined {error.code}", f"{error.where or default_where}: {error.what}")

    def add(self, row_id: str, comparison: Comparison, response: ScoreResponse) -> None:
        self.comparisons += 1
        scores = [self._score(row_id, k, result) for k, result in enumerate(response.results)]
        pairs = pairs_of(comparison.ranks)
        self.unordered += not pairs
        scored = [(b, w, sb, sw) for b, w in pairs if (sb := scores[b]) is not None and (sw := scores[w]) is not None]
        self.unscored_pairs += len(pairs) - len(scored)
        prompt = self.prompt_numbers.setdefault(prompt_key(comparison), len(self.prompt_numbers))
        chars = [num_chars(completion) for completion in comparison.completions]
        self.first_P.extend(chosen_is_first((f"{row_id}:{b}:{w}" for b, w, _, _ in scored), seed=self.seed).tolist())
        for better, worse, better_score, worse_score in scored:
            self.prompts_P.append(prompt)
            self.chosen_P.append(better_score)
            self.rejected_P.append(worse_score)
            self.chosen_chars_P.append(chars[better])
            self.rejected_chars_P.append(chars[worse])

    def _score(self, row_id: str, k: int, result: ItemResult) -> float | None:
        """The raw score, or None with the failure counted."""
        if isinstance(result, ScoreFailure):
            code, message = result.code, result.message
        elif not abs(result.raw) <= _LARGEST_SCORE:
            code, message = "non_finite", f"the score is {result.raw}"
        else:
            return float(result.raw)
        self.failed[code] += 1
        self.examples.setdefault(f"failed {code}", f"row {row_id}, completion {k}: {message}")
        return None

    def summarize(self, scorer: Scorer) -> Evaluation:
        if not self.chosen_P:
            raise self._nothing_scored()
        metrics = pair_metrics(
            self.chosen_P, self.rejected_P, prompts_P=self.prompts_P, first_P=self.first_P, seed=self.seed
        )
        rule = length_rule(self.chosen_chars_P, self.rejected_chars_P)
        longer_wins_P = np.asarray(self.chosen_chars_P) > np.asarray(self.rejected_chars_P)
        rule_interval = clustered_interval(longer_wins_P, self.prompts_P, seed=self.seed, bounds=(0.0, 1.0))
        return Evaluation(
            model_name=scorer.info.name,
            model_version=scorer.info.model_version,
            rows=self.num_rows,
            comparisons=self.comparisons,
            quarantined=dict(self.quarantined),
            unordered=self.unordered,
            failed=dict(self.failed),
            unscored_pairs=self.unscored_pairs,
            **asdict(metrics),
            length_rule_accuracy=rule.accuracy,
            length_rule_low=rule_interval.low,
            length_rule_high=rule_interval.high,
            length_rule_ties=rule.ties,
            notes=(*reading_notes(metrics, rule, rule_interval), *self._counting_notes()),
        )

    def _counting_notes(self) -> Iterator[str]:
        if self.unordered:
            yield f"{self.unordered} comparisons tie throughout and make no pair."
        if self.unscored_pairs:
            yield f"{self.unscored_pairs} pairs are left out, because a completion has no score."
        for code, count in self.failed.items():
            yield f"No score ({code}): {_counted(count, 'completion')}, the first at {self.examples[f'failed {code}']}"
        for code, count in self.quarantined.items():
            yield f"Quarantined ({code}): {_counted(count, 'row')}, the first at {self.examples[f'quarantined {code}']}"

    def _nothing_scored(self) -> DataError:
        if not self.num_rows:
            return DataError(
                "there is nothing to evaluate", why="not one row was read", next_step="check the data's path"
            )
        what = "no pair could be scored"
        counts = f"{_counted(self.num_rows, 'row')} read"
        return DataError(
            what, why=" ".join([f"{counts}.", *self._counting_notes()]), next_step="mend the rows named, or the mapping"
        )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
