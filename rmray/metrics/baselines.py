"""Models that read no meaning, fitted on training pairs: what a reward model must beat. Used by the quickstart's table
and by reports."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized

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
    "list_items": r"(?m)^[ \t]*(?:[-*•]|\d+[.)])\s",
    "bold": r"\*\*[^*]+\*\*",
    "code": r"`",
    "refusals": r"(?i)\b(?:i cannot|i can't|i'm sorry|i am sorry|as an ai)\b",
}
WORDS = r"(?u)\w+|[^\w\s]"
"""Words, numbers and punctuation marks."""
_COMPILED = tuple(re.compile(p) for p in SURFACE_PATTERNS.values())


def surface_features(text: str) -> Floats:
    """log(1 + count) of characters and of SURFACE_PATTERNS, and whether a sentence ends it: float64 [features]."""
    counts = [len(text), *(len(pattern.findall(text)) for pattern in _COMPILED)]
    return np.append(np.log1p(counts), float(text.rstrip()[-1:] in (".", "!", "?", "`", ")", '"')))


def surface_difference(pair: TextPair) -> Floats:
    """Features of the chosen text minus those of the rejected one: float64 [features]."""
    return surface_features(pair[0]) - surface_features(pair[1])


def surface_baseline(train: Sequence[TextPair], held_out: Sequence[TextPair]) -> Ranking:
    """Logistic regression on differences of surface features, fitted on `train`; its figures on `held_out`.

    Raises ValueError on fewer than two training pairs.
    """
    differences = [np.array([surface_difference(pair) for pair in pairs]) for pairs in (train, held_out)]
    return _ranking(surface_gaps(*differences))


def surface_gaps(train_PF: npt.ArrayLike, held_out_PF: npt.ArrayLike) -> Floats:
    """Score gaps [P] of the held-out pairs by the surface baseline, from differences of F features of both sets.

    Raises ValueError on fewer than two training pairs.
    """
    train = np.asarray(train_PF, dtype=np.float64)
    _check_train(train)
    scaler = StandardScaler(with_mean=False).fit(train)  # a mean would be an intercept
    return _fit(scaler.transform(train), scaler.transform(np.asarray(held_out_PF, dtype=np.float64)))


def bag_of_words_baseline(train: Sequence[TextPair], held_out: Sequence[TextPair]) -> Ranking:
    """Logistic regression on differences of word counts, fitted on `train`; its figures on `held_out`.

    Words, numbers and punctuation marks count, in lower case; one must occur in two training texts to have a weight.
    Raises ValueError on fewer than two training pairs and where no word occurs twice.
    """
    _check_train(train)
    texts = [text for pair in train for text in pair]
    vectorizer = CountVectorizer(token_pattern=WORDS, min_df=2)
    vectorizer.fit(texts)
    train_difference, held_out_difference = (
        vectorizer.transform([chosen for chosen, _ in pairs])
        - vectorizer.transform([rejected for _, rejected in pairs])
        for pairs in (train, held_out)
    )
    return _ranking(_fit(train_difference, held_out_difference))


def bag_of_words_scores(train: Sequence[str], train_right: Sequence[bool], held_out: Sequence[str]) -> Floats | None:
    """Log-odds of being right of each held-out text, by logistic regression on word counts, fitted on `train` and
    whether each of its texts is right.

    The words are those of `bag_of_words_baseline`. None where there is nothing to learn: texts of one kind alone, or no
    word that occurs in two of them.
    """
    vectorizer = CountVectorizer(token_pattern=WORDS)
    right = np.asarray(train_right, dtype=np.bool_)
    if right.all() or not right.any():
        return None
    counts = vectorizer.fit_transform(train)
    frequent = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]) >= 2)
    if not len(frequent):
        return None
    model = LogisticRegression(max_iter=2000).fit(counts[:, frequent], right)
    scores: Floats = model.decision_function(vectorizer.transform(held_out)[:, frequent])
    return scores


def _check_train(train: Sized) -> None:
    if len(train) < 2:
        raise ValueError(f"a baseline needs two training pairs at least, there are {len(train)}")


def _fit(train_difference: Floats | sparse.spmatrix, held_out_difference: Floats | sparse.spmatrix) -> Floats:
    """Held-out gaps of a Bradley-Terry model that is linear in features: no intercept, so that swapping a pair swaps
    its answer.

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
    gap_P: Floats = model.decision_function(held_out_difference)
    return gap_P


def _ranking(gap_P: Floats) -> Ranking:
    return rank_pairs(gap_P, np.zeros_like(gap_P))
