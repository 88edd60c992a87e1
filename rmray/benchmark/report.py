"""Figures of a benchmark as frozen records, a table and JSON. Called by `train` and `score`."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmray.benchmark.flops import Work
from rmray.benchmark.timing import Timing

OURS = "rmray"
TABLE_WIDTH = 150
PACKAGES = ("rmray", "torch", "transformers", "trl", "accelerate", "numpy", "ray", "deepspeed")


@dataclass(frozen=True, slots=True)
class RowFigures:
    """One row of one cell. *_s: seconds of a run, over the rounds. per_s: pairs or completions a second, at the median.

    speed_up: of rmray over this row, by medians. tokens: computed in a run, padding included. token_ratio: over
    rmray's. kept: speed_up / token_ratio, how much of the tokens saved became time saved. These are None without rmray.
    utilisation: executed operations / time / peak. useful_mfu: needed operations / time / peak. peak_bytes: None where
    the machine does not tell. rounds_s: seconds of each round.
    """

    name: str
    median_s: float
    min_s: float
    max_s: float
    per_s: float
    speed_up: float | None
    tokens: int
    token_ratio: float | None
    kept: float | None
    utilisation: float
    useful_mfu: float
    peak_bytes: int | None
    rounds_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload on one model. unit: `pairs` or `completions`; num_units: of a run. tokens_given: of all paths.

    ideal: tokens_given over the tokens with every prompt once, by the lengths drawn; ideal_of_means: K(P+R)/(P+KR) at
    the workload's means, None for files. prompt_share: of the tokens of a path, P/(P+R). peak_flops: operations a
    second of the best matrix product. packed: whether rmray took its packed forward. padded_batch_tokens: in scoring,
    the fastest of several budgets for the padded row. distances: of scores and gradients, before timing.
    """

    workload: str
    model: str
    num_parameters: int
    completions: float
    prompt_share: float
    unit: str
    num_units: int
    tokens_given: int
    tokens_needed: int
    ideal: float
    ideal_of_means: float | None
    peak_flops: float
    packed: bool
    padded_batch_tokens: int | None
    distances: Mapping[str, float]
    rows: tuple[RowFigures, ...]

    def row(self, name: str) -> RowFigures | None:
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True, slots=True)
class Report:
    """kind: `train` or `score`. settings: as given. machine: what the figures hang on."""

    kind: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    cells: tuple[Cell, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, directory: Path) -> Path:
        """Write DIR/<kind>.json; its path."""
        return save_json(directory, self.kind, self.to_json())


def save_json(directory: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Write DIR/name.json; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def figures_of_rows(
    timings: Mapping[str, Timing],
    *,
    num_units: int,
    executed: Callable[[str, Work], int],
    needed: int,
    peak_flops: float,
) -> tuple[RowFigures, ...]:
    """executed: operations of a row's run, from its name and the work counted. needed: operations that had to be."""
    ours = timings.get(OURS)
    rows = []
    for name, timing in timings.items():
        work = timing.runs[-1].work
        speed_up = timing.median_s / ours.median_s if ours else None
        ratio = work.tokens / ours.runs[-1].work.tokens if ours else None
        rows.append(
            RowFigures(
                name=name,
                median_s=timing.median_s,
                min_s=min(timing.seconds),
                max_s=max(timing.seconds),
                per_s=num_units / timing.median_s,
                speed_up=speed_up,
                tokens=work.tokens,
                token_ratio=ratio,
                kept=speed_up / ratio if speed_up is not None and ratio is not None else None,
                utilisation=executed(name, work) / timing.median_s / peak_flops,
                useful_mfu=needed / timing.median_s / peak_flops,
                peak_bytes=timing.peak_bytes,
                rounds_s=tuple(timing.seconds),
            )
        )
    return tuple(rows)


def machine_facts(device: str) -> dict[str, Any]:
    """What a reader must know of the machine and its software."""
    import torch

    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def print_report(report: Report) -> None:
    """One table a cell."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(Console().width, TABLE_WIDTH))
    for cell in report.cells:
        of_means = "" if cell.ideal_of_means is None else f", {cell.ideal_of_means:.2f} at the means"
        table = Table(
            title=f"{report.kind}: {cell.workload} on {cell.model} ({cell.num_parameters / 1e6:.1f}M), "
            f"{cell.num_units} {cell.unit}, {cell.tokens_given:,} tokens given, ideal {cell.ideal:.2f}{of_means}, peak "
            f"{cell.peak_flops / 1e9:.0f} GFLOP/s" + ("" if cell.packed else ", NOT PACKED"),
            title_justify="left",
        )
        headings = (
            "row",
            f"{cell.unit}/s",
            "s (min-max)",
            "rmray is faster",
            "tokens computed",
            "ratio",
            "kept",
            "utilisation",
            "useful MFU",
            "memory",
        )
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "row" else "right")
        for row in cell.rows:
            table.add_row(*_cells(row))
        console.print(table)


def _cells(row: RowFigures) -> Sequence[str]:
    return (
        row.name,
        f"{row.per_s:.2f}",
        f"{row.median_s:.3f} ({row.min_s:.3f}-{row.max_s:.3f})",
        _times(row.speed_up),
        f"{row.tokens:,}",
        _times(row.token_ratio),
        "-" if row.kept is None else f"{row.kept:.2f}",
        f"{row.utilisation:.1%}",
        f"{row.useful_mfu:.1%}",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.0f} MiB",
    )


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
