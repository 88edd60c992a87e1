"""Show a PlanReport: a table in the terminal, a picture on disk. Called by `rmray benchmark plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmray.benchmark.plan import MAX_IMBALANCE, MAX_PLANNING_SHARE, PlanCell, PlanReport


def print_plan(report: PlanReport) -> None:
    """The table, and what it rests on."""
    from rich.console import Console
    from rich.table import Table

    from rmray.benchmark.report import TABLE_WIDTH

    console = Console(width=max(Console().width, TABLE_WIDTH))
    table = Table(title=f"{report.num_pairs:,} pairs over {report.num_ranks} ranks", title_justify="left")
    for heading in (
        "batch", "a rank", "paths to", "forward", "planned", "pairs/s", "of a step", "imbalance", "p99", "max", "bound",
        "with waits", "forwards", "padding", "given / computed",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for cell in report.cells:
        table.add_row(*_row(cell))
    console.print(table)
    console.print(*_notes(report), sep="\n", highlight=False)


def _row(cell: PlanCell) -> Sequence[str]:
    mark = "" if cell.imbalance.mean <= MAX_IMBALANCE else " (!)"
    return (
        f"{cell.settings.global_batch_size:,}",
        f"{cell.pairs_per_rank:g}",
        f"{cell.settings.max_length:,}",
        "packed" if cell.settings.packed else "padded",
        f"{cell.num_pairs:,}",
        f"{cell.pairs_per_s:,.0f}",
        f"{cell.planning_share:.2%}",
        f"{cell.imbalance.mean:.3f}{mark}",
        f"{cell.imbalance.p99:.3f}",
        f"{cell.imbalance.max:.3f}",
        f"{cell.bound.mean:.3f}",
        f"{cell.paced.mean:.3f}",
        f"{cell.micro_batches:.1f}",
        f"{cell.padding:.1%}",
        f"{cell.tokens_saved:.2f}x",
    )


def _notes(report: PlanReport) -> list[str]:
    cells, mib = report.cells, 2**20
    notes = [
        f"A step is simulated as {report.model} at {report.utilisation:.0%} of {report.peak_flops / 1e12:.0f} TFLOP/s "
        f"a rank; planning is counted on one core, though tasks share it and run ahead.",
        f"Ordered for the whole set: {report.num_windows:,} windows in {report.order_s:.3f} s. Planned: "
        f"{sum(cell.num_pairs for cell in cells):,} pairs; a whole epoch is extrapolated to "
        f"{min(c.whole_epoch_s for c in cells):,.0f}-{max(c.whole_epoch_s for c in cells):,.0f} s of one core.",
        "Bound: dearest row over the mean of ranks; no plan gets below it. With waits: all ranks wait for each other "
        "after every forward.",
    ]
    if any(cell.imbalance.mean > MAX_IMBALANCE for cell in cells):
        notes.append(
            f"(!) above {MAX_IMBALANCE}. Where the bound is above it too, ranks have too few pairs for rows so uneven; "
            "where the forward pads, what it pads comes on top of what was balanced."
        )
    if report.start_bytes is not None and report.peak_bytes is not None:
        notes.append(f"Memory: {report.start_bytes / mib:.0f} MiB before, {report.peak_bytes / mib:.0f} MiB at most.")
    if report.task:
        notes.append(
            f"A planning task in all (read windows, plan, write payloads; {report.task.num_pairs:,} pairs from disk, "
            f"{report.task.num_ranks} ranks): {report.task.pairs_per_s:,.0f} pairs/s on one core, "
            f"{report.task.share:.1%} of a step of {report.task.like_batch_size:,} pairs: it copies every token."
        )
    return notes


def plot_plan(report: PlanReport, directory: Path) -> list[Path]:
    """Save DIR/plan.png: imbalance and planning time over pairs per rank. Raises ConfigError without matplotlib."""
    from rmray.benchmark.settings import require

    require("matplotlib", "the plot").use("Agg")
    from matplotlib import pyplot

    figure, (even, quick) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    packed = [cell for cell in report.cells if cell.settings.packed]
    for color, length in enumerate(sorted({cell.settings.max_length for cell in packed})):
        cells = sorted((c for c in packed if c.settings.max_length == length), key=lambda c: c.pairs_per_rank)
        per_rank = [cell.pairs_per_rank for cell in cells]
        style = {"color": f"C{color}", "marker": "o"}
        even.plot(per_rank, [cell.imbalance.mean for cell in cells], label=f"paths to {length:,}: mean", **style)
        even.plot(per_rank, [cell.imbalance.p99 for cell in cells], ls="--", label="p99", **style)
        even.plot(per_rank, [cell.bound.mean for cell in cells], ls=":", label="bound: dearest row", **style)
        quick.plot(per_rank, [100 * cell.planning_share for cell in cells], label=f"paths to {length:,}", **style)
    even.axhline(MAX_IMBALANCE, color="grey", lw=0.8)
    even.set(xscale="log", yscale="log", xlabel="pairs a rank and step", ylabel="slowest rank / mean")
    quick.axhline(100 * MAX_PLANNING_SHARE, color="grey", lw=0.8)
    quick.set(xscale="log", ylim=(0, None), xlabel="pairs a rank and step", ylabel="planning, % of a step (one core)")
    ticks = sorted({cell.pairs_per_rank for cell in packed})
    for axes in (even, quick):
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=8)
    even.set_yticks([1, 1.03, 1.1, 1.5, 2], ["1", "1.03", "1.1", "1.5", "2"])
    figure.suptitle(f"{report.num_pairs:,} pairs over {report.num_ranks} ranks, {report.model}")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "plan.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return [path]
