"""Show what `rmray benchmark scaling` found: tables in the terminal, a picture on disk."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from rmray.benchmark.scaling.grid import WITHIN, GridCell, GridReport, Policy
from rmray.benchmark.scaling.serve_validation import ServeValidationReport
from rmray.benchmark.scaling.validation import FIGURES, ValidationReport
from rmray.benchmark.scaling.validation import WITHIN as VALID_WITHIN


def print_grid(report: GridReport) -> None:
    """One row a policy, and what it rests on."""
    from rich.console import Console
    from rich.table import Table

    from rmray.benchmark.report import TABLE_WIDTH

    console = Console(width=max(Console().width, TABLE_WIDTH))
    settings, cost = report.settings, report.cost
    loads = list(settings.loads())
    table = Table(
        title=f"{settings.num_actors:,} rollout actors, {settings.min_replicas} to {settings.max_replicas} replicas",
        title_justify="left",
    )
    for heading in ("target", "up s", "down s", "calls", "told s"):
        table.add_column(heading, justify="right")
    for load in loads:
        for heading in (f"{load} p99 s", "cost", *(["lag s"] if load == "step" else [])):
            table.add_column(heading, justify="right")
    for heading in ("p99 / best", "cost / best", ""):
        table.add_column(heading, justify="right")
    for verdict in report.verdicts:
        cells = [_cell(report, verdict.policy, load) for load in loads]
        mark = "best" if verdict.policy == report.best else "" if verdict.sound else "(!)"
        row = [text for cell in cells for text in _texts(cell)]
        ratios = (f"{verdict.p99_ratio:.2f}", f"{verdict.cost_ratio:.2f}", mark)
        table.add_row(*_policy_texts(verdict.policy), *row, *ratios)
    console.print(table)
    console.print(
        f"Forwards: {cost.name}, {1000 * cost.base_s:.1f} ms + {1e6 * cost.token_s:.1f} us a token + "
        f"{1e9 * cost.pair_s:.2f} ns an attended pair, spread {cost.spread:.1%}; "
        + ("measured here." if cost.measured else f"{cost.note}, not measured."),
        f"Groups of {report.workload} have {report.mean_tokens:,.0f} tokens; a replica does {report.tokens_per_s:,.0f} "
        f"a second and starts in {settings.start_s:g} s. Actors generate for {report.generate_s:.1f} s; the highest "
        f"load keeps {report.needed} replicas busy.",
        f"Cost: replica-seconds for 1,000 completions. Lag: from the rise of the load to {report.needed} replicas. "
        f"Best: the least cost with p99 within {WITHIN:g}x of the best under every load; (!) is not within it.",
        sep="\n",
        highlight=False,
    )


def print_validation(report: ValidationReport) -> None:
    """One row a case, medians of the rounds."""
    from rich.console import Console
    from rich.table import Table

    from rmray.benchmark.report import TABLE_WIDTH

    console = Console(width=max(Console().width, TABLE_WIDTH))
    settings = report.settings
    what = "paced forwards" if settings.paced else settings.model
    table = Table(
        title=f"simulated over real, {what}, medians of {settings.rounds} rounds of {settings.run_s:g} s",
        title_justify="left",
    )
    table.add_column("case")
    for heading in ("calls/s", "p50 ms", "p99 ms", "throughput", "mean", "p50", "p99"):
        table.add_column(heading, justify="right")
    for heading in ("foretold: throughput", "p50", "p99", "drift"):
        table.add_column(heading, justify="right")
    for case in report.cases():
        real = [c.real for c in report.comparisons if c.case == case]
        seen = [
            statistics.median(values) for values in zip(*((m.calls_per_s, m.p50_s, m.p99_s) for m in real), strict=True)
        ]
        ratios = [report.ratio(case, name) for name in FIGURES]
        foretold = [report.ratio(case, name, "foretold") for name in ("calls_per_s", "p50_s", "p99_s")]
        low, high = report.drift(case)
        table.add_row(
            case,
            f"{seen[0]:.1f}",
            f"{1000 * seen[1]:.0f}",
            f"{1000 * seen[2]:.0f}",
            *(f"{ratio:.2f}" for ratio in (*ratios, *foretold)),
            f"{low:.2f}-{high:.2f}",
        )
    console.print(table)
    held = "are" if report.holds else "are NOT all"
    console.print(
        f"Throughput and median latency {held} within {VALID_WITHIN:.0%} of the real ones, simulated from the fit of a "
        "run's own forwards. Foretold: from forwards measured between the runs. Drift: what a run's own forwards took "
        "over what that fit says, least and greatest round.",
        highlight=False,
    )


def print_serve_validation(report: ServeValidationReport) -> None:
    """One row a case, medians of the rounds; then the load step."""
    from rich.console import Console
    from rich.table import Table

    from rmray.benchmark.report import TABLE_WIDTH

    console = Console(width=max(Console().width, TABLE_WIDTH))
    settings = report.settings
    title = f"simulated over real Ray Serve, medians of {settings.rounds} rounds of {settings.run_s:g} s"
    table = Table(title=title, title_justify="left")
    table.add_column("case")
    for heading in ("calls/s", "p50 ms", "p99 ms", "throughput", "mean", "p50", "p99", "load average"):
        table.add_column(heading, justify="right")
    steps = tuple(step.calls for step in report.steps)
    for case in dict.fromkeys(c.case for c in (*report.comparisons, *steps)):
        rounds = [c for c in (*report.comparisons, *steps) if c.case == case]
        calls_per_s, p50_s, p99_s = (
            statistics.median(getattr(c.real, name) for c in rounds) for name in ("calls_per_s", "p50_s", "p99_s")
        )
        ratios = [statistics.median(c.ratio(name) for c in rounds) for name in FIGURES]
        loads = [c.load_average for c in rounds]
        table.add_row(
            case,
            f"{calls_per_s:.1f}",
            f"{1000 * p50_s:.0f}",
            f"{1000 * p99_s:.0f}",
            *(f"{ratio:.2f}" for ratio in ratios),
            f"{min(loads):.0f}-{max(loads):.0f}",
        )
    console.print(table)
    for step in report.steps:
        lags = ", ".join(
            f"{name} {_seconds(real)} ({_seconds(step.simulated_lags_s[name])})"
            for name, real in step.real_lags_s.items()
        )
        console.print(
            f"Load step, round {step.round + 1}: starts {', '.join(map(_seconds, step.starts_s))} s; replicas, seconds "
            f"from the step, or from its end back, real (simulated): {lags}; replica-seconds "
            f"{step.real_replica_s:.0f} ({step.simulated_replica_s:.0f}).",
            highlight=False,
        )
    held = "are" if report.holds else "are NOT all"
    beside = ", ".join(f"{1000 * call_s:.0f} ms with {n} replicas" for n, call_s in report.call_s.items())
    console.print(
        f"Throughput and median latency of replicas that stay {held} within {VALID_WITHIN:.0%} of the real ones. "
        f"Beside its forward a call takes {beside}.",
        highlight=False,
    )


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f}"


def _policy_texts(policy: Policy) -> list[str]:
    return [
        f"{policy.target_batches:g}",
        f"{policy.upscale_delay_s:g}",
        f"{policy.downscale_delay_s:g}",
        f"{policy.max_ongoing_requests}",
        f"{policy.metrics_interval_s:g}",
    ]


def _texts(cell: GridCell) -> list[str]:
    f = cell.figures
    lag = "-" if f.lag_s is None else f"{f.lag_s:.0f}"
    return [f"{f.p99_s:.1f}", f"{f.replica_s_per_1000:.1f}", *([lag] if cell.load == "step" else [])]


def _cell(report: GridReport, policy: Policy, load: str) -> GridCell:
    return next(c for c in report.cells if (c.policy, c.load) == (policy, load))


def plot_grid(report: GridReport, directory: Path) -> list[Path]:
    """Save DIR/scaling.png: replicas over time of the best policy and of the worst, and p99 over cost."""
    from rmray.benchmark.settings import require

    require("matplotlib", "the plot").use("Agg")
    from matplotlib import pyplot

    loads = report.settings.loads()
    figure, axes = pyplot.subplots(2, len(loads), figsize=(13, 7), layout="constrained", squeeze=False)
    for column, load in enumerate(loads):
        _plot_time(axes[0][column], report, load)
        _plot_trade(axes[1][column], report, load)
    axes[0][0].set_ylabel("replicas")
    axes[1][0].set_ylabel("p99 of a call, s")
    axes[0][0].legend(fontsize=7)
    axes[1][0].legend(fontsize=7, title="target / batch", title_fontsize=7)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "scaling.png"
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
    return [path]


def _plot_time(axes: Any, report: GridReport, load: str) -> None:
    needed = [report.needed * k.level / report.settings.num_actors for k in _cell(report, report.best, load).looks]
    times = [k.now_s for k in _cell(report, report.best, load).looks]
    axes.plot(times, needed, color="0.6", lw=1, label="kept busy by the load, if nobody waits")
    worst = max(report.verdicts, key=lambda v: v.p99_ratio).policy
    for color, policy in (("C0", report.best), ("C3", worst)):
        looks = _cell(report, policy, load).looks
        label = f"target {policy.target_batches:g}, down after {policy.downscale_delay_s:g} s"
        axes.plot([k.now_s for k in looks], [k.running for k in looks], color=color, lw=1.2, label=label)
    axes.axvspan(0, report.settings.warm_s, color="0.93", lw=0)
    axes.set(title=load, xlabel="s", ylim=(0, None))


def _plot_trade(axes: Any, report: GridReport, load: str) -> None:
    targets = sorted({v.policy.target_batches for v in report.verdicts})
    for color, target in enumerate(targets):
        cells = [c for c in report.cells if c.load == load and c.policy.target_batches == target]
        x, y = [c.figures.replica_s_per_1000 for c in cells], [c.figures.p99_s for c in cells]
        axes.plot(x, y, "o", ms=4, color=f"C{color}", label=f"{target:g}")
    best = _cell(report, report.best, load).figures
    axes.plot(best.replica_s_per_1000, best.p99_s, "o", ms=11, mfc="none", color="k")
    axes.set(xlabel="replica-seconds for 1,000 completions", yscale="log")
