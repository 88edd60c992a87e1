"""`rmray benchmark search`: sums that are solved with a process model, over the width of the beam. Called by the CLI.

The policy is simulated (`data.world.solver`): it errs so often at each step. Beside the beam: one solution drawn
without any model, and the best of as many whole solutions as the widest beam scores candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rmray.benchmark.settings import require
from rmray.client.step_search import NextStep, Score, search_steps
from rmray.data.world.solver import draw_steps, is_solved
from rmray.data.world.steps import Sum, draw_sum
from rmray.errors import ConfigError, RequestError
from rmray.metrics.intervals import clustered_interval
from rmray.models.bundle import load_bundle
from rmray.models.bundle.load import default_device
from rmray.models.scorer import score_requests
from rmray.schema import ScoreFailure, ScoreRequest, Steps

NO_MODEL, WHOLE = "one solution, no model", "best whole solution of"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """problems: sums. widths: of the beam. proposals: steps that the policy draws for each partial solution.
    error_rate: of each of its steps."""

    problems: int = 200
    widths: tuple[int, ...] = (1, 2, 4, 8)
    proposals: int = 4
    error_rate: float = 0.3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SearchRow:
    """solved: share of problems, [low, high] its 95% interval over problems. scored: candidates a problem."""

    name: str
    width: int | None
    solved: float
    low: float
    high: float
    scored: float


@dataclass(frozen=True, slots=True)
class SearchReport:
    model_version: str
    settings: SearchSettings
    rows: list[SearchRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_search(bundle: str | Path, settings: SearchSettings, *, notify: Callable[[str], None]) -> SearchReport:
    """Solve the same problems at every width. Raises BundleError, and ConfigError for a model that is no process
    model."""
    scorer = load_bundle(bundle, device=default_device())
    if scorer.info.kind != "process":
        raise ConfigError(
            f"the bundle is of the kind {scorer.info.kind!r}, and steps are searched with a process model",
            where=str(bundle),
            next_step="train one (objective.name: process)",
        )

    def score(request: ScoreRequest) -> Sequence[Any]:
        return score_requests(scorer, [request])[0].results

    rng = np.random.default_rng([settings.seed, 0])
    problems = [draw_sum(rng) for _ in range(settings.problems)]
    report = SearchReport(scorer.info.model_version, settings)

    def solve(name: str, how: Callable[..., tuple[bool, int]], size: int, width: int | None = None) -> SearchRow:
        row = _row(name, width, [how(problem, size, score, settings, n) for n, problem in enumerate(problems)])
        report.rows.append(row)
        notify(f"{name}: {row.solved:.3f} solved")
        return row

    solve(NO_MODEL, _whole, 1)
    beams = [solve(f"beam of {width}", _beam, width, width) for width in settings.widths]
    many = max(1, round(max(row.scored for row in beams)))
    solve(f"{WHOLE} {many}", _whole, many)
    return report


def _beam(problem: Sum, width: int, score: Score, settings: SearchSettings, number: int) -> tuple[bool, int]:
    """Whether it is solved, and the candidates scored."""
    policy, ties = (np.random.default_rng([settings.seed, 1, number, part]) for part in (0, 1))

    def propose(steps: tuple[str, ...]) -> list[NextStep]:
        drawn = draw_steps(problem, steps, policy, num=settings.proposals, error_rate=settings.error_rate)
        return [NextStep(step, len(steps) + 1 == problem.num_claims) for step in drawn]

    found = search_steps(problem.prompt, propose, score, width=width, max_steps=problem.num_claims, rng=ties)
    return is_solved(problem, found.steps), found.num_scored


def _whole(problem: Sum, num: int, score: Score, settings: SearchSettings, number: int) -> tuple[bool, int]:
    """Likewise, of the best of `num` solutions that the policy draws on its own; one needs no model."""
    rng = np.random.default_rng([settings.seed, 2, number])
    drawn: list[tuple[str, ...]] = []
    for _ in range(num):
        steps: tuple[str, ...] = ()
        while len(steps) < problem.num_claims:
            steps = (*steps, *draw_steps(problem, steps, rng, num=1, error_rate=settings.error_rate))
        drawn.append(steps)
    drawn = list(dict.fromkeys(drawn))
    if num == 1:
        return is_solved(problem, drawn[0]), 0
    results = score(ScoreRequest(prompt=problem.prompt, completions=tuple(Steps(steps) for steps in drawn)))
    failed = next((result for result in results if isinstance(result, ScoreFailure)), None)
    if failed is not None:
        raise RequestError(failed.code, failed.message)
    raw = np.array([result.raw for result in results if not isinstance(result, ScoreFailure)])
    best = int(rng.choice(np.flatnonzero(raw == raw.max())))
    return is_solved(problem, drawn[best]), len(drawn)


def _row(name: str, width: int | None, solved: Sequence[tuple[bool, int]]) -> SearchRow:
    hits = [hit for hit, _ in solved]
    interval = clustered_interval(hits, np.arange(len(hits)), bounds=(0.0, 1.0))
    scored = float(np.mean([count for _, count in solved]))
    return SearchRow(name, width, float(np.mean(hits)), interval.low, interval.high, scored)


def print_search(report: SearchReport) -> None:
    table = Table("Search", "Solved", "95% interval", "Candidates scored", title=f"model {report.model_version}")
    for row in report.rows:
        table.add_row(row.name, f"{row.solved:.3f}", f"[{row.low:.3f}, {row.high:.3f}]", f"{row.scored:.1f}")
    Console().print(table)


def plot_search(report: SearchReport, path: Path) -> Path:
    """Solved share over the beam's width. Writes PNG."""
    require("matplotlib", "a plot").use("Agg")
    from matplotlib import pyplot

    beams = [row for row in report.rows if row.width is not None]
    others = [row for row in report.rows if row.width is None]
    figure, axes = pyplot.subplots(figsize=(5.5, 4))
    widths = [row.width for row in beams if row.width is not None]
    solved = np.array([row.solved for row in beams])
    low, high = (np.array([getattr(row, side) for row in beams]) for side in ("low", "high"))
    axes.errorbar(widths, solved, yerr=[solved - low, high - solved], marker="o", capsize=3, label="beam over steps")
    for colour, row in enumerate(others, start=1):
        axes.axhline(row.solved, color=f"C{colour}", ls="--", lw=1, label=row.name)
    axes.set(xlabel="width of the beam", ylabel="share of sums solved", ylim=(0, 1.02), xscale="log")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
