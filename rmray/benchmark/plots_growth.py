"""Show a GrowthReport: tables in the terminal, two pictures on disk. Called by `rmray benchmark growth`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rmray.benchmark.growth import GrowthCell, GrowthReport, RowFigures

MIB = 2**20
COLUMNS = 3
STYLES = {"train": "-", "score": "--"}


def print_growth(report: GrowthReport) -> None:
    """One table of cells, one of data sets."""
    from rich.console import Console
    from rich.table import Table

    from rmray.benchmark.report import TABLE_WIDTH

    console = Console(width=max(Console().width, TABLE_WIDTH))
    table = Table(title="packed beside padded, the same backbone", title_justify="left")
    for heading in (
        "sweep", "cell", "kind", "P", "R", "K", "packed s", "padded s", "packed is faster", "padded / packed tokens",
        "packed MiB", "padded MiB",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("sweep", "cell", "kind") else "right")
    for cell in report.cells:
        table.add_row(
            cell.sweep,
            cell.label,
            cell.kind,
            f"{cell.prompt_tokens:.0f}",
            f"{cell.completion_tokens:.0f}",
            f"{cell.completions}",
            f"{cell.packed.seconds:.3f}",
            f"{cell.padded.seconds:.3f}",
            f"{cell.speed_up:.2f}x" + (" LOST" if cell.lost else ""),
            f"{cell.token_ratio:.2f}x",
            _mib(cell.packed.peak_bytes),
            _mib(cell.padded.peak_bytes),
        )
    console.print(table)
    table = Table(title="a data set", title_justify="left")
    for heading in ("rows", "prepare s", "prepare MiB", "plan s", "plan MiB"):
        table.add_column(heading, justify="right")
    for size in report.data:
        prepare_s = "-" if size.prepare_s is None else f"{size.prepare_s:.1f}"
        table.add_row(
            f"{size.num_rows:,}", prepare_s, _mib(size.prepare_bytes), f"{size.plan_s:.2f}", _mib(size.plan_bytes)
        )
    console.print(table)
    for note in report.notes:
        console.print(note, highlight=False)


def _mib(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / MIB:,.0f}"


def plot_growth(report: GrowthReport, directory: Path) -> list[Path]:
    """Save DIR/growth-time.png and DIR/growth-memory.png, lost cells crossed out in red. Raises ConfigError without
    matplotlib."""
    from rmray.benchmark.settings import require

    require("matplotlib", "the plots").use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    time, memory = directory / "growth-time.png", directory / "growth-memory.png"
    _draw(report, time, "seconds", lambda row: row.seconds, lambda d: (d.prepare_s, d.plan_s))
    _draw(
        report,
        memory,
        "MiB",
        lambda row: None if row.peak_bytes is None else max(row.peak_bytes / MIB, 0.1),
        lambda d: tuple(None if b is None else max(b / MIB, 0.1) for b in (d.prepare_bytes, d.plan_bytes)),
    )
    return [time, memory]


def _draw(
    report: GrowthReport,
    path: Path,
    unit: str,
    value: Callable[[RowFigures], float | None],
    of_data: Callable[[Any], tuple[float | None, ...]],
) -> None:
    from matplotlib import pyplot

    sweeps = list(dict.fromkeys(cell.sweep for cell in report.cells))
    lines = -(-(len(sweeps) + 1) // COLUMNS)
    figure, grid = pyplot.subplots(
        lines, COLUMNS, figsize=(4.6 * COLUMNS, 4 * lines), layout="constrained", squeeze=False
    )
    axes, spare = grid.flat[: len(sweeps) + 1], grid.flat[len(sweeps) + 1 :]
    for panel in spare:
        panel.set_axis_off()
    for panel, sweep in zip(axes, sweeps, strict=False):
        for kind, style in STYLES.items():
            cells = [cell for cell in report.cells if (cell.sweep, cell.kind) == (sweep, kind)]
            _lines(panel, cells, kind, style, value)
        panel.set(title=sweep, ylabel=unit, yscale="log")
        _scale(panel, [cell for cell in report.cells if cell.sweep == sweep])
    panel = axes[-1]
    for index, name in enumerate(("prepare", "plan")):
        points = [(size.num_rows, of_data(size)[index]) for size in report.data]
        known = [(x, y) for x, y in points if y is not None]
        if known:
            panel.plot(*zip(*known, strict=True), marker="o", label=name)
    panel.set(title="rows of a data set", ylabel=unit, xscale="log", yscale="log")
    for panel in axes:
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7, handlelength=3.5)
    figure.suptitle("rmray: packed beside padded; red crosses: packed is the slower one")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _lines(
    panel: Any, cells: Sequence[GrowthCell], kind: str, style: str, value: Callable[[RowFigures], float | None]
) -> None:
    for color, name in (("C0", "packed"), ("C1", "padded")):
        points = [(cell.x, value(getattr(cell, name))) for cell in cells]
        known = [(x, y) for x, y in points if y is not None]
        if known:
            panel.plot(*zip(*known, strict=True), color=color, ls=style, marker="o", ms=3, label=f"{kind}, {name}")
    lost = [(cell.x, y) for cell in cells if cell.lost and (y := value(cell.packed)) is not None]
    if lost:
        panel.scatter(*zip(*lost, strict=True), marker="x", color="red", s=70, zorder=3, label=f"{kind}: packed loses")


def _scale(panel: Any, cells: Sequence[GrowthCell]) -> None:
    """Log where it grows by factors; names where x has none."""
    if cells[0].sweep in ("length", "K"):
        panel.set_xscale("log", base=2)
    labels = {cell.x: f"{cell.x:g}" if cell.sweep in ("length", "K") else cell.label for cell in cells}
    panel.set_xticks(list(labels), list(labels.values()), fontsize=8)
    panel.minorticks_off()
