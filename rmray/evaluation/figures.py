"""From a log of scored pairs to an Evaluation. Pure. Called by `run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from rmray.errors import DataError
from rmray.evaluation import sections
from rmray.evaluation.disagreement import disagreement_figures
from rmray.evaluation.left_out import counted, left_out_notes, quarantine_examples
from rmray.evaluation.pair_log import PairLog, WrongPair
from rmray.evaluation.record import Evaluation, reading_notes
from rmray.evaluation.source import RULE
from rmray.evaluation.surface import SampledPairs, surface_figures
from rmray.evaluation.tokens import ScoreTokens, TokenScores, no_tokens
from rmray.metrics.agreement import paired_difference
from rmray.metrics.bias import length_rule
from rmray.metrics.intervals import clustered_interval
from rmray.metrics.summary import pair_metrics
from rmray.models.scorer import ScorerInfo
from rmray.schema import Content, Steps, TokenIds, plain_text

SHOWN_CHARS = 4000
"""Of each text of a pair that is shown; the rest is cut, and the pair says so."""


def summarize(
    log: PairLog,
    info: ScorerInfo,
    *,
    train: SampledPairs | None = None,
    score_tokens: ScoreTokens = no_tokens,
) -> Evaluation:
    """All figures of one scorer. train: a sample of training pairs, for the surface baseline.

    Raises DataError, with the counts, where no pair was scored.
    """
    if not log.num_pairs:
        raise _nothing_scored(log, info.name)
    columns, seed = log.columns(), log.seed
    chosen_P, rejected_P = columns.chosen_P, columns.rejected_P
    metrics = pair_metrics(
        columns.scores_C[chosen_P],
        columns.scores_C[rejected_P],
        prompts_P=columns.prompts_P,
        first_P=columns.first_P,
        seed=seed,
    )
    chosen_chars_P, rejected_chars_P = columns.chars_C[chosen_P], columns.chars_C[rejected_P]
    rule = length_rule(chosen_chars_P, rejected_chars_P)
    rule_interval = clustered_interval(
        chosen_chars_P > rejected_chars_P, columns.prompts_P, seed=seed, bounds=(0.0, 1.0)
    )
    surface, surface_notes = surface_figures(log.surface_sample(), train, seed=seed)
    versus_length = paired_difference(columns.gap_P, chosen_chars_P - rejected_chars_P, columns.prompts_P, seed=seed)
    wins_over_losses = clustered_interval(np.sign(columns.gap_P), columns.prompts_P, seed=seed, bounds=(-1.0, 1.0))
    reading = reading_notes(
        metrics,
        rule,
        rule_interval,
        wins_over_losses=wins_over_losses,
        versus_length=None if info.kind == RULE else versus_length,
    )
    return Evaluation(
        model_name=info.name,
        model_version=info.model_version,
        kind=info.kind,
        rows=log.num_rows,
        comparisons=log.comparisons,
        quarantined=dict(sorted(log.quarantined.items())),
        unordered=log.unordered,
        failed=dict(sorted(log.failed.items())),
        unscored_pairs=log.unscored_pairs,
        **asdict(metrics),
        length_rule_accuracy=rule.accuracy,
        length_rule_low=rule_interval.low,
        length_rule_high=rule_interval.high,
        length_rule_ties=rule.ties,
        notes=(*reading, *surface_notes, *_counting_notes(log)),
        details={
            "surface": surface.to_json() if surface else None,
            "versus_length": asdict(versus_length),
            "rewards": sections.reward_distributions(columns),
            "margins": sections.margin_distribution(columns),
            "reliability": sections.reliability(columns),
            "length": sections.length_bias(columns, seed=seed),
            "gap_deciles": sections.deciles(columns, np.abs(columns.gap_P), seed=seed),
            "margin_deciles": sections.deciles(columns, columns.margins_P, seed=seed),
            "sources": sections.by_source(columns, seed=seed),
            "surface_forms": sections.surface_forms(columns, seed=seed),
            "disagreement": disagreement_figures(columns, seed=seed),
            "best_of_n": sections.best_of_n_curve(log.groups, seed=seed),
            "worst": [_worst_json(pair, score_tokens(pair)) for pair in log.worst()],
            "quarantine_examples": quarantine_examples(log.examples),
        },
    )


def _worst_json(pair: WrongPair, tokens: tuple[TokenScores, TokenScores] | None) -> dict[str, Any]:
    texts = {"prompt": shown(pair.prompt), "chosen": shown(pair.chosen), "rejected": shown(pair.rejected)}
    return {
        "row_id": pair.row_id,
        "source": pair.source,
        "gap": pair.gap,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        **{name: text[:SHOWN_CHARS] for name, text in texts.items()},
        "cut": any(len(text) > SHOWN_CHARS for text in texts.values()),
        "chosen_tokens": tokens[0] if tokens else None,
        "rejected_tokens": tokens[1] if tokens else None,
    }


def shown(content: Content) -> str:
    """A prompt or completion for people: chats with their roles, token ids as numbers."""
    if isinstance(content, TokenIds):
        return "token ids " + " ".join(map(str, content.ids))
    if isinstance(content, str | Steps) or len(content) < 2:
        return plain_text(content)
    return "\n\n".join(f"{message['role']}: {plain_text((message,))}" for message in content)


def _counting_notes(log: PairLog) -> Iterator[str]:
    if log.unordered:
        yield f"{log.unordered} comparisons tie throughout and make no pair."
    repeats, contradictions = log.repeated()
    if repeats:
        yield f"Comparisons that repeat another one, and count again: {repeats}."
    if contradictions:
        yield f"Comparisons that another one contradicts: {contradictions}."
    if log.unscored_pairs:
        yield f"{log.unscored_pairs} pairs are left out, because a completion has no score."
    yield from left_out_notes(log.quarantined, log.failed, log.examples)


def _nothing_scored(log: PairLog, name: str) -> DataError:
    if not log.num_rows:
        return DataError("there is nothing to evaluate", why="not one row was read", next_step="check the data's path")
    counts = f"{counted(log.num_rows, 'row')} read"
    return DataError(
        "no pair could be scored",
        where=name,
        why=" ".join([f"{counts}.", *_counting_notes(log)]),
        next_step="mend the rows named, or the mapping",
    )
