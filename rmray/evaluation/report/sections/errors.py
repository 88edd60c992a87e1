"""The pairs that the model gets wrong by most, to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from rmray.evaluation.report import words
from rmray.evaluation.report.blocks import PairError, PairErrors, Passage, Piece, Section
from rmray.evaluation.report.read import View, clean_text, finite

MAX_PAIRS = 20
PREVIEW, MAX_TEXT = 420, 6000  # characters of a text: shown at once, shown at all
PROMPT_PREVIEW = 280
MAX_PIECES = 1500  # tinted tokens of a completion
NO_TEXT = "(no text)"


def worst_errors(model: View) -> Section:
    worst = model.parts("worst")[:MAX_PAIRS]
    pairs = [_pair(number, error) for number, error in enumerate(worst, 1)]
    empty = "No pair is ranked the wrong way." if model.count("pairs") else "No pair could be scored."
    return Section(
        "errors",
        "The worst errors",
        "Read them: is the model wrong, or is the label? Many of one kind are what a policy would exploit first.",
        (PairErrors(pairs),) if pairs else (),
        empty=empty,
    )


def _pair(number: int, error: View) -> PairError:
    gap = f"gap {words.figure(error.num('gap'))}" if error.num("gap") is not None else "gap not recorded"
    facts = [f"row {error.text('row_id', most=80)}"] if error.text("row_id") else []
    facts += [f"source {error.text('source', most=60)}"] if error.text("source") else []
    facts += ["texts are cut"] if error.flag("cut") else []
    tokens = [_tokens(error, f"{side}_tokens") for side in ("chosen", "rejected")]
    tint = _Tint([score for side in tokens for _, score in side])
    chosen, rejected = (
        passage(error.passage(side, NO_TEXT), side_tokens, tint, PREVIEW)
        for side, side_tokens in zip(("chosen", "rejected"), tokens, strict=True)
    )
    return PairError(
        title=f"{number}. {gap}",
        facts=facts,
        prompt=passage(error.passage("prompt", NO_TEXT), [], tint, PROMPT_PREVIEW),
        chosen=chosen,
        rejected=rejected,
        chosen_score=words.figure(error.num("chosen_score")),
        rejected_score=words.figure(error.num("rejected_score")),
        legend=tint.legend() if any(tokens) else (),
    )


def _tokens(error: View, key: str) -> list[tuple[str, float | None]]:
    """Tokens with their scores, where there are any scores."""
    found = [
        (clean_text(entry[0]), finite(entry[1]))
        for entry in error.values(key)
        if isinstance(entry, list | tuple) and len(entry) == 2
    ]
    return found if any(score is not None for _, score in found) else []


class _Tint:
    """Scores to tints: steps of equal width away from the median of the pair's tokens, orange below, blue above."""

    def __init__(self, scores: Sequence[float | None]) -> None:
        known = [score for score in scores if score is not None]
        self._middle = median(known) if known else 0.0
        self._reach = max((abs(score - self._middle) for score in known), default=0.0)

    def __call__(self, score: float | None) -> int:
        if score is None or not self._reach:
            return 0
        return round(3 * (score - self._middle) / self._reach)

    def legend(self) -> tuple[str, str, str]:
        low, high = self._middle - self._reach, self._middle + self._reach
        return words.figure(low), words.figure(self._middle), words.figure(high)


Tint = Callable[[float | None], int]
"""The tint of a score, -3 to 3; 0 for none."""


def passage(text: str, tokens: Sequence[tuple[str, float | None]], tint: Tint, preview: int) -> Passage:
    """tokens: in place of the text, where the model gave them scores."""
    while tokens and not tokens[-1][0].strip():
        tokens = tokens[:-1]
    if tokens:  # a tint on an empty last line would look like a token
        tokens = [*tokens[:-1], (tokens[-1][0].rstrip(), tokens[-1][1])]
    whole = "".join(token for token, _ in tokens) or text.rstrip()
    pieces = list(_pieces(tokens, tint)) if tokens else [Piece(whole)]
    kept, cut = _first(pieces, MAX_TEXT)
    shown, folded = _first(kept, preview)
    if not folded or len(whole) < preview * 1.25:
        return Passage(kept, (), len(whole), cut)
    return Passage(shown, kept, len(whole), cut)


def _pieces(tokens: Sequence[tuple[str, float | None]], tint: Tint) -> Iterator[Piece]:
    for i, (token, score) in enumerate(tokens):
        if i >= MAX_PIECES:
            yield Piece("".join(rest for rest, _ in tokens[i:]))
            return
        blank = score is None or not token.strip()
        yield Piece(token) if blank else Piece(token, tint(score), words.figure(score))


def _first(pieces: Sequence[Piece], most: int) -> tuple[list[Piece], bool]:
    """The pieces of the first `most` characters, and whether there are more."""
    kept: list[Piece] = []
    for piece in pieces:
        if len(piece.text) > most:
            return ([*kept, Piece(piece.text[:most], piece.tint, piece.title)] if most else kept), True
        kept.append(piece)
        most -= len(piece.text)
    return kept, False
