"""What a section of the page is made of. Built by `sections`, shown by the template, drawn by `plots`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """A plain sentence or two."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True, slots=True)
class Notes:
    """A list of sentences."""

    kind: ClassVar[str] = "notes"
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """A Vega-Lite spec without colours of its own. name: of its PNG. alt: what it shows, for who cannot see it.
    subtitle: what a PNG, which stands alone, says under its title; the page says it elsewhere."""

    kind: ClassVar[str] = "chart"
    name: str
    title: str
    spec: Spec
    alt: str
    subtitle: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Charts beside each other, under each other on a phone."""

    kind: ClassVar[str] = "row"
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True)
class Headline:
    """The figure that the page is about, large, beside what it must beat. figures: name, value, what it means."""

    kind: ClassVar[str] = "headline"
    value: str
    interval: str
    name: str
    sentence: str
    legend: str
    chart: Chart | None
    figures: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Words:
    """A table's cell that carries a judgement. tone: `good`, `bad` or `plain`; the word alone must tell it."""

    text: str
    tone: str = "plain"


Cell = str | Words


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of a row names it. align: one letter a column, `l` for words, `r` for numbers, `w` for
    long words that may break. folded: closed until it is asked for. note: under it."""

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str
    folded: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text. tint: -3 (low) to 3 (high), 0 for none; title: what pointing at it tells."""

    text: str
    tint: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text, folded after `preview` where `rest` is more. length: characters in all. cut: not the whole text."""

    preview: Sequence[Piece]
    rest: Sequence[Piece]
    length: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class PairError:
    """One pair that the model ranks the wrong way. legend: low, middle and high of the tinted scores, where tinted."""

    title: str
    facts: Sequence[str]
    prompt: Passage
    chosen: Passage
    rejected: Passage
    chosen_score: str
    rejected_score: str
    legend: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PairErrors:
    kind: ClassVar[str] = "pairs"
    pairs: Sequence[PairError]


@dataclass(frozen=True, slots=True)
class LabelError:
    """One completion whose label the model gets wrong. tinted: its pieces carry the model's probabilities."""

    title: str
    facts: Sequence[str]
    prompt: Passage
    completion: Passage
    tinted: bool = False


@dataclass(frozen=True, slots=True)
class LabelErrors:
    kind: ClassVar[str] = "labels"
    errors: Sequence[LabelError]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values. verbatim: a text to be shown as it is, folded."""

    kind: ClassVar[str] = "facts"
    title: str
    facts: Sequence[tuple[str, str]] = ()
    verbatim: str = ""


Block = Headline | Text | Notes | Chart | Row | Table | PairErrors | LabelErrors | Facts


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. look_for: one sentence on how to read it. empty: why there is nothing to show."""

    id: str
    title: str
    look_for: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    empty: str = ""

    def charts(self) -> Iterator[Chart]:
        for block in self.blocks:
            if isinstance(block, Chart):
                yield block
            elif isinstance(block, Row):
                yield from block.charts
            elif isinstance(block, Headline) and block.chart:
                yield block.chart
