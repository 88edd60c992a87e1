"""Figures against steps, lengths, confidence and KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from rmray.evaluation.report.blocks import Spec
from rmray.evaluation.report.charts.base import finish, named, rule, span
from rmray.evaluation.report.palette import BLUE, GREY, INK, ORANGE, PAGE

HEIGHT = 210
DIAGONAL = ({"x": 0, "y": 0}, {"x": 1, "y": 1})


def training_curve(
    raw: Sequence[tuple[float, float]],
    smooth: Sequence[tuple[float, float]],
    held_out: Sequence[Mapping[str, float | None]] = (),
    *,
    title: str,
    numbers: str = "~g",
) -> Spec:
    """One figure by step. raw: (step, value), faint where `smooth` is drawn over it. held_out: rows of step, value,
    low, high, drawn as diamonds."""
    rows = [{"step": s, "value": v, "kind": "raw"} for s, v in raw]
    rows += [{"step": s, "value": v, "kind": "smooth"} for s, v in smooth]
    ends = [value for _, value in raw] + [r.get(k) for r in held_out for k in ("value", "low", "high")]
    scale = alt.Scale(domain=span(ends), nice=False, zero=False)
    x = alt.X(
        "step:Q",
        title="optimizer step",
        scale=alt.Scale(nice=False, zero=False),
        axis=alt.Axis(format="~s", tickMinStep=1),
    )
    y = alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(format=numbers))  # the chart's title says what it is
    tip = [alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4~g", title=title)]
    base = named("rows").encode(x=x, y=y, tooltip=tip)
    faint = base.transform_filter("datum.kind == 'raw'")
    layers: list[alt.Chart] = [
        faint.mark_line(color=BLUE, strokeWidth=1 if smooth else 2, opacity=0.3 if smooth else 1)
    ]
    if len(raw) == 1:
        layers.append(faint.mark_point(color=BLUE, fill=BLUE, opacity=1))
    if smooth:
        layers.append(base.transform_filter("datum.kind == 'smooth'").mark_line(color=BLUE, strokeWidth=2))
    if held_out:
        shown = named("held_out").encode(x=x, tooltip=tip)
        if any(row["low"] is not None for row in held_out):
            bars = shown.transform_filter("isValid(datum.low)").mark_rule(color=ORANGE, strokeWidth=2, opacity=0.7)
            layers.append(bars.encode(y=alt.Y("low:Q", scale=scale, title=None), y2="high:Q"))
        points = shown.mark_point(shape="diamond", size=70, color=ORANGE, fill=PAGE, opacity=1, strokeWidth=2)
        layers.append(points.encode(y=y))
    return finish(alt.layer(*layers), height=HEIGHT, rows=rows, held_out=held_out)


def reliability(bins: Sequence[Mapping[str, Any]], *, of: str = "pairs") -> Spec:
    """Share that came true against confidence, with the diagonal; a larger dot holds more of what is counted."""
    diagonal = named("diagonal").mark_line(color=GREY, strokeDash=[4, 3], strokeWidth=1.5)
    x = alt.X("confidence:Q", title="the model's confidence", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(grid=True))
    y = alt.Y("won:Q", title="share that came true", scale=alt.Scale(domain=[0, 1]))
    base = named("rows").encode(
        x=x, y=y,
        tooltip=[alt.Tooltip("bin:N"), alt.Tooltip("count:Q", format=",", title=of),
                 alt.Tooltip("confidence:Q", format=".3f"), alt.Tooltip("won:Q", format=".3f", title="came true")],
    )  # fmt: skip
    line = base.mark_line(color=BLUE, strokeWidth=1.5, opacity=0.6)
    most = max((row["count"] for row in bins), default=1)
    size = alt.Size("count:Q", scale=alt.Scale(domain=[0, most], range=[25, 420]), legend=None)
    dots = base.mark_point(color=BLUE, fill=BLUE, opacity=1, fillOpacity=0.75).encode(size=size)
    return finish(
        alt.layer(diagonal.encode(x=alt.X("x:Q"), y=alt.Y("y:Q")), line, dots), height=300, rows=bins, diagonal=DIAGONAL
    )


def counts_by_bin(bins: Sequence[Mapping[str, Any]], *, title: str, axis_title: str) -> Spec:
    """Bars of `count` from `low` to `high`."""
    chart = named("rows").mark_bar(color=GREY, binSpacing=2, opacity=0.75).encode(
        x=alt.X("low:Q", bin=alt.BinParams(binned=True), title=axis_title, axis=alt.Axis(tickCount=6)),
        x2="high:Q",
        y=alt.Y("count:Q", title=title, axis=alt.Axis(tickCount=3, format="~s")),
        tooltip=[alt.Tooltip("low:Q"), alt.Tooltip("high:Q"), alt.Tooltip("count:Q", format=",")],
    )  # fmt: skip
    return finish(chart, height=300, rows=bins)


def by_length(rows: Sequence[Mapping[str, Any]], *, value: str, title: str, axis_title: str, shares: bool) -> Spec:
    """A figure by length bucket; a larger dot holds more. rows: middle, VALUE, count. shares: 0.5 is marked."""
    known = [row[value] for row in rows]
    domain = span([*known, 0.5] if shares else known, least=0.2 if shares else 0.0)
    base = named("rows").encode(
        x=alt.X("middle:Q", title=axis_title, scale=alt.Scale(nice=False, zero=False, padding=12),
                axis=alt.Axis(format="~s")),
        y=alt.Y(f"{value}:Q", title=title, scale=alt.Scale(domain=domain, nice=False, zero=False)),
        tooltip=[alt.Tooltip("bucket:N", title="length"), alt.Tooltip(f"{value}:Q", format=".3~f", title=title),
                 alt.Tooltip("count:Q", format=",")],
    )  # fmt: skip
    most = max((row["count"] for row in rows), default=1)
    size = alt.Size("count:Q", scale=alt.Scale(domain=[0, most], range=[15, 260]), legend=None)
    layers: list[alt.Chart] = []
    if shares:
        layers.append(rule(0.5, axis="y"))
    layers.append(base.mark_line(color=BLUE, strokeWidth=1.5, opacity=0.6))
    layers.append(base.mark_point(color=BLUE, fill=BLUE, opacity=1, fillOpacity=0.75).encode(size=size))
    return finish(alt.layer(*layers), height=HEIGHT, rows=rows)


def against_kl(rows: Sequence[Mapping[str, Any]], *, value: str, title: str, band: bool) -> Spec:
    """A figure of the pick of best of n against its KL, with each dot's n. band: rows have VALUE_low and VALUE_high."""
    ends = [row.get(k) for row in rows for k in (value, f"{value}_low", f"{value}_high")]
    scale = alt.Scale(domain=span(ends, part=0.18), nice=False, zero=False)
    y = alt.Y(f"{value}:Q", title=title, scale=scale)
    x = alt.X("kl:Q", title="KL, nats", scale=alt.Scale(nice=False, padding=36))  # fmt: skip
    tip = [alt.Tooltip("n:Q"), alt.Tooltip("kl:Q", format=".3f"), alt.Tooltip(f"{value}:Q", format=".4~g", title=title)]
    base = named("rows").encode(x=x, tooltip=tip)
    colour = BLUE if band else ORANGE
    layers: list[alt.Chart] = []
    if band:
        area = base.mark_area(color=colour, opacity=0.18)
        layers.append(area.encode(y=alt.Y(f"{value}_low:Q", title=title, scale=scale), y2=f"{value}_high:Q"))
    layers.append(base.mark_line(color=colour, strokeWidth=2, strokeDash=[1, 0] if band else [5, 3]).encode(y=y))
    layers.append(base.mark_point(color=colour, fill=colour, opacity=1, size=50).encode(y=y))
    label = base.mark_text(dx=-5, dy=-11, align="right", color=INK).encode(y=y, text=alt.Text("label:N"))
    layers.append(label)
    return finish(alt.layer(*layers), height=HEIGHT + 20, rows=rows)
