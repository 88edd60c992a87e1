"""Rewards token by token of a pair's completions, where a scorer has a head to read them from. Called by `run`."""

from __future__ import annotations

from collections.abc import Callable

from rmray.evaluation.pair_log import WrongPair
from rmray.evaluation.source import RewardSource, ScorerSource
from rmray.schema import request_of_own_ids

TokenScores = list[tuple[str, float]]
"""Pieces of a completion's text, each with the score that the completion would have if it ended there."""
ScoreTokens = Callable[[WrongPair], tuple[TokenScores, TokenScores] | None]


def no_tokens(pair: WrongPair) -> None:
    """Of what has no rewards token by token."""
    return


def token_scorer(source: RewardSource) -> ScoreTokens:
    """Scores of both completions of a pair, token by token; None of what has no head that reads single tokens."""
    from rmray.models.head_scorer import HeadScorer  # torch, which a file of scores does not need

    scorer = source.scorer if isinstance(source, ScorerSource) else None
    if not isinstance(scorer, HeadScorer) or not scorer.reads_tokens:
        return no_tokens

    def score(pair: WrongPair) -> tuple[TokenScores, TokenScores] | None:
        completions = (pair.chosen, pair.rejected)
        request = request_of_own_ids(pair.prompt, completions, scorer.info.tokenizer_hash, tools=pair.tools)
        chosen, rejected = scorer.token_scores(request)
        return chosen, rejected

    return score
