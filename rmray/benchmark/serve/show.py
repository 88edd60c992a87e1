"""Show a ServeReport: tables in the terminal, two pictures on disk. Called by `rmray benchmark serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmray.benchmark.serve.figures import ClosedFigures, Latencies, OpenFigures, ServeReport, verdicts_of
from rmray.benchmark.serve.settings import BARE, HANDLE, IDS

LATENCY_HEADINGS = ("median ms", "p95", "p99")


def print_serve(report: ServeReport) -> None:
    """Closed loops, open loops, calls of a noop scorer, and the targets."""
    from rich.console import Console

    from rmray.benchmark.report import TABLE_WIDTH

    console = Console(width=max(Console().width, TABLE_WIDTH))
    settings = report.settings
    for model in report.models:
        work = model.work
        table = _table(
            f"{model.model} ({model.num_parameters / 1e6:.1f}M), {settings.threads} torch thread(s) each, "
            f"P {work['prompt_tokens']:.0f} tokens ({work['prompt_chars']:.0f} characters), "
            f"R {work['completion_tokens']:.0f}, padding and no sharing x{work['padded']:.2f}; a forward of 8 takes "
            f"{1e3 * model.forward_s:.1f} ms, tokenising it {model.encode_share:.1%} of that; HTTP by "
            f"{'HAProxy' if settings.haproxy else 'the proxy of Serve'}",
            ("point", "completions/s", "of the bare forward", *LATENCY_HEADINGS, "requests"),
        )
        for row in (row for row in report.closed if row.model == model.model):
            table.add_row(row.point.name, f"{row.per_s:.1f}", f"{row.to_bare:.3f}", *_ms(row.latencies))
        console.print(table)
    if report.opened:
        table = _table("Poisson arrivals of groups of 8", ("load", "groups/s", *LATENCY_HEADINGS, "requests"))
        for point in report.opened:
            name = f"{point.model}: {point.transport}, {point.content}, {point.share:.0%} of saturation"
            table.add_row(name, f"{point.asked_per_s:.2f}", *_ms(point.latencies))
        console.print(table)
    if report.noop:
        table = _table(
            "a scorer that does nothing",
            ("call", "of the plain call", "calls/s", *LATENCY_HEADINGS, "calls"),
        )
        for noop in report.noop:
            table.add_row(noop.name, f"{noop.to_plain:.3f}", f"{noop.per_s:.0f}", *_ms(noop.latencies))
        console.print(table)
    table = _table("targets", ("target", "measured", "wanted", "the bare forward", ""))
    for verdict in verdicts_of(report):
        wanted = f"{'at least' if verdict.least else 'at most'} {verdict.limit:.4g}"
        best = "-" if verdict.at_best is None else f"{verdict.at_best:.4g}"
        table.add_row(verdict.what, f"{verdict.measured:.4g}", wanted, best, "met" if verdict.met else "MISSED")
    console.print(table)


def _table(title: str, headings: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _ms(latencies: Latencies | None) -> tuple[str, ...]:
    if latencies is None:
        return ("-",) * 4
    of_ms = (f"{1e3 * seconds:.1f}" for seconds in (latencies.median_s, latencies.p95_s, latencies.p99_s))
    return (*of_ms, f"{latencies.count}")


def plot_serve(report: ServeReport, directory: Path) -> list[Path]:
    """Save DIR/serve-throughput.png, over the callers and beside the ceiling, and DIR/serve-latency.png, over the
    offered load. Raises ConfigError without matplotlib."""
    from rmray.benchmark.settings import require

    require("matplotlib", "the plots").use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    throughput, latency = directory / "serve-throughput.png", directory / "serve-latency.png"
    models = [model.model for model in report.models]
    _draw(models, throughput, lambda panel, model: _throughput(panel, [r for r in report.closed if r.model == model]))
    _draw(models, latency, lambda panel, model: _latency(panel, [r for r in report.opened if r.model == model]))
    return [throughput, latency]


def _draw(models: Sequence[str], path: Path, fill: Any) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, max(1, len(models)), figsize=(5.2 * max(1, len(models)), 4.2), squeeze=False)
    for panel, model in zip(axes[0], models, strict=False):
        fill(panel, model)
        panel.set_title(model)
        panel.legend(fontsize=7)
    figure.suptitle("rmray benchmark serve")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _throughput(panel: Any, rows: Sequence[ClosedFigures]) -> None:
    """Groups of 8 by one replica; the sweep is a line, other ways are points."""
    of_eight = [row for row in rows if row.point.completions == 8 and row.point.replicas == 1]
    for row in of_eight:
        if row.point.transport == BARE:
            panel.axhline(row.per_s, color="0.4", ls="--", lw=1, label="bare forward")
    names = dict.fromkeys((r.point.transport, r.point.content) for r in of_eight if r.point.transport != BARE)
    for number, (transport, content) in enumerate(names):
        known = sorted(
            (row.point.callers, row.per_s)
            for row in of_eight
            if (row.point.transport, row.point.content) == (transport, content)
        )
        style = "-o" if (transport, content) == (HANDLE, IDS) else "D"
        panel.plot(*zip(*known, strict=True), style, color=f"C{number}", ms=5, label=f"{transport}, {content}")
    panel.set(xlabel="callers, groups of 8", ylabel="completions/s", xscale="log", ylim=(0, None))
    ticks = sorted({row.point.callers for row in of_eight if row.point.callers})
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()


def _latency(panel: Any, points: Sequence[OpenFigures]) -> None:
    for number, transport in enumerate(dict.fromkeys(point.transport for point in points)):
        known = sorted((p.share, p.latencies) for p in points if p.transport == transport)
        for style, name in (("-o", "median_s"), ("--s", "p95_s"), (":^", "p99_s")):
            label = f"{transport}, {name.removesuffix('_s')}"
            values = [(share, 1e3 * getattr(latencies, name)) for share, latencies in known]
            panel.plot(*zip(*values, strict=True), style, color=f"C{number}", ms=4, label=label)
    for point in points[:1]:
        panel.axhline(1e3 * point.forward_s, color="0.4", lw=1, label="one forward")
    panel.set(xlabel="offered load, of the saturation", ylabel="latency, ms", yscale="log", xlim=(0, 1))
