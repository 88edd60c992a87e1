"""Models that read no meaning, fitted on training pairs: what a reward model must beat. Used by the quickstart's table
and by reports."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from rmray.metrics.ranking import Floats, Ranking, rank_pairs

TextPair = tuple[str, str]
"""The text of a chosen and of a rejected completion."""

# What a surface reader sees, beside the number of characters.
SURFACE_PATTERNS = {
    "words": r"\S+",
    "lines": r"\n",
    "digits": r"\d",
    "capitals": r"[A-Z]",
    "commas_and_stops": r"[.,;:]",
    "exclamations": r"!",
    "questions": r"\?",
    "headings": r"(?m)^#+ ",
    "list_items": r"(?m)^\s*(?:[-*•]|\d+[.)])\s",
    "bold": r"\*\*[^*]+\*\*",
    "code": r"`",
    "refusals": r"(?i)\b(?:i cannot|i can't|i'm sorry|i am sorry|as an ai)\b",
}
_COMPILED = tuple(re.compile(p) for p in SURFACE_PATTERNS.values())


def surface_features(text: str) -> Floats:
    """log(1 + count) of characters and of SURFACE_PATTERNS, and whether a sentence ends it: float64 [features]."""
    counts = [len(text), *(len(pattern.findall(text)) for pattern in _COMPILED)]
    return np.append(np.log1p(counts), float(text.rstrip()[-1:] in (".", "!", "?", "`", ")", '"')))


def surface_baseline(train: Sequence[TextPair], held_out: Sequence[TextPair]) -> Ranking:
    """Logistic regression on differences of surface features, fitted on `train`; its figures on `held_out`.

    Raises ValueError on fewer than two training pairs.
    """
    _check_train(train)
    features = {name: _surface_matrix(pairs) for name, pairs in (("train", train), ("held_out", held_out))}
    scaler = StandardScaler().fit(np.concatenate(features["train"]))
    train_difference, held_out_difference = (
        scaler.transform(chosen) - scaler.transform(rejected) for chosen, rejected in features.values()
    )
    return _fit_and_rank(train_difference, held_out_difference)


def bag_of_words_baseline(train: Sequence[TextPair], held_out: Sequence[TextPair]) -> Ranking:
    """Logistic regression on differences of word counts, fitted on `train`; its figures on `held_out`.

    Words, numbers and punctuation marks count, in lower case; one must occur in two training texts to have a weight.
    Raises ValueError on fewer than two training pairs and where no word occurs twice.
    """
    _check_train(train)
    texts = [text for pair in train for text in pair]
    vectorizer = CountVectorizer(token_pattern=r"(?u)\w+|[^\w\s]", min_df=2)
    vectorizer.fit(texts)
    train_difference, held_out_difference = (
        vectorizer.transform([chosen for chosen, _ in pairs])
        - vectorizer.transform([rejected for _, rejected in pairs])
        for pairs in (train, held_out)
    )
    return _fit_and_rank(train_difference, held_out_difference)


def _check_train(train: Sequence[TextPair]) -> None:
    if len(train) < 2:
        raise ValueError(f"a baseline needs two training pairs at least, there are {len(train)}")


def _surface_matrix(pairs: Sequence[TextPair]) -> tuple[Floats, Floats]:
    return np.array([surface_features(c) for c, _ in pairs]), np.array([surface_features(r) for _, r in pairs])


def _fit_and_rank(train_difference: Floats | sparse.spmatrix, held_out_difference: Floats | sparse.spmatrix) -> Ranking:
    """A Bradley-Terry model that is linear in features: no intercept, so that swapping a pair swaps its answer.

    Strength of regularisation: sklearn's C = 1, for every baseline and data set alike.
    """
    num_train = train_difference.shape[0]
    # Every second pair is turned round: the classifier needs both answers, and without intercept it learns the same.
    sign: npt.NDArray[np.float64] = np.where(np.arange(num_train) % 2 == 0, 1.0, -1.0)
    turned = (
        sparse.diags(sign) @ train_difference if sparse.issparse(train_difference) else sign[:, None] * train_difference
    )
    model = LogisticRegression(fit_intercept=False, max_iter=2000)
    model.fit(turned, sign > 0)
    gap_P = model.decision_function(held_out_difference)
    return rank_pairs(gap_P, np.zeros_like(gap_P))
