"""Distributions: scores of two kinds of completions, gaps between chosen and rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from rmray.evaluation.report.blocks import Spec
from rmray.evaluation.report.charts.base import finish, named, rule
from rmray.evaluation.report.palette import BLUE, GREY, ORANGE

HEIGHT = 230
LOST, AROUND_ZERO, WON = "lost", "around zero", "won or tied"


def two_distributions(
    edges: Sequence[float],
    first: Sequence[float],
    second: Sequence[float],
    *,
    names: tuple[str, str] = ("chosen", "rejected"),
    title: str = "score",
    of: str = "completions",
) -> Spec:
    """Shares of both kinds' scores a bin, as outlines over a tint; the second kind is dashed."""
    rows = [
        {"side": side, "low": low, "share": share}
        for side, counts in zip(names, (first, second), strict=True)
        for low, share in _outline(edges, counts)
    ]
    base = named("rows").encode(
        x=alt.X("low:Q", title=title, scale=alt.Scale(nice=False, zero=False, domain=[edges[0], edges[-1]])),
        y=alt.Y("share:Q", title=f"share of {of}", axis=alt.Axis(format="%"), stack=None),
    )
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1, symbolSize=220)
    colour = alt.Color("side:N", scale=alt.Scale(domain=list(names), range=[BLUE, ORANGE]), legend=legend)
    dashes = alt.Scale(domain=list(names), range=[[1, 0], [5, 3]])
    fill = base.mark_area(interpolate="step-after", opacity=0.18).encode(color=colour)
    line = base.mark_line(interpolate="step-after", strokeWidth=2).encode(
        color=colour, strokeDash=alt.StrokeDash("side:N", scale=dashes, legend=legend)
    )
    return finish(alt.layer(fill, line), height=HEIGHT, rows=rows)


def gaps(edges: Sequence[float], counts: Sequence[float]) -> Spec:
    """Pairs by their gap: lost left of zero in orange, won (or tied at zero) right of it in blue."""
    rows: list[dict[str, Any]] = [
        {"low": low, "high": high, "pairs": n, "side": LOST if high <= 0 else WON if low >= 0 else AROUND_ZERO}
        for low, high, n in zip(edges, edges[1:], counts, strict=False)
    ]
    colours = {LOST: ORANGE, AROUND_ZERO: GREY, WON: BLUE}
    sides = [side for side in colours if any(row["side"] == side for row in rows)]
    bars = named("rows").mark_bar(binSpacing=1).encode(
        x=alt.X("low:Q", bin=alt.BinParams(binned=True), title="gap: score of the chosen − score of the rejected",
                scale=alt.Scale(nice=False, zero=False, domain=[edges[0], edges[-1]]), axis=alt.Axis(tickCount=6)),
        x2="high:Q",
        y=alt.Y("pairs:Q", title="pairs"),
        color=alt.Color("side:N", scale=alt.Scale(domain=sides, range=[colours[side] for side in sides])),
        tooltip=[alt.Tooltip("low:Q", title="from", format=".3~g"), alt.Tooltip("high:Q", title="to", format=".3~g"),
                 alt.Tooltip("pairs:Q", format=",")],
    )  # fmt: skip
    layers = [bars, rule(0, axis="x", style="var(--ink)")] if edges[0] < 0 < edges[-1] else [bars]
    return finish(alt.layer(*layers), height=HEIGHT, rows=rows)


def _outline(edges: Sequence[float], counts: Sequence[float]) -> list[tuple[float, float]]:
    total = sum(counts) or 1
    shares = [n / total for n in counts]
    return [*zip(edges, shares, strict=False), (edges[-1], shares[-1])]
