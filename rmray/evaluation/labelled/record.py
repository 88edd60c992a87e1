"""What an evaluation of labelled records gives: one model's figures, and the file they are written to.

Made by `outcome` and `process`; shown by `table` and the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rmray.evaluation.record import evaluation_json
from rmray.metrics.outcome import OutcomeMetrics
from rmray.metrics.process import ProcessMetrics

Kind = Literal["outcome", "process"]
LABELLED: tuple[Kind, ...] = ("outcome", "process")
"""Kinds of records that are labelled; a model of such a kind reads its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledEvaluation:
    """Figures of one scorer on one set of labelled records, in JSON-able types; no figure is ever NaN or infinite.

    Counts add up: rows = examples (or solutions) + sum(failed) + sum(quarantined). metrics: what `metrics.outcome` or
    `metrics.process` makes of them. aggregates: the AUC with its interval by which the mean, the smallest and the
    product of a completion's probabilities tell right ones from wrong ones. baselines: figures of what reads no
    meaning; None where it was not fitted. notes: what a reader must know before quoting a figure.
    """

    model_name: str
    model_version: str
    kind: str
    records: Kind
    rows: int
    quarantined: Mapping[str, int]
    failed: Mapping[str, int]
    metrics: OutcomeMetrics | ProcessMetrics
    aggregates: Mapping[str, Mapping[str, float | None]]
    baselines: Mapping[str, float | None]
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def headline(self) -> dict[str, Any]:
        """All figures but the details, as plain JSON types; `json.dumps(..., allow_nan=False)` takes it.

        The baselines stand beside an outcome's figures, and under `baselines` beside those of a process.
        """
        baselines = dict(self.baselines)
        return {
            "model_name": self.model_name,
            "model_version": self.model_version,
            "kind": self.kind,
            "records": self.records,
            "rows": self.rows,
            "quarantined": dict(self.quarantined),
            "failed": dict(self.failed),
            **asdict(self.metrics),
            **(baselines if self.records == "outcome" else {"baselines": baselines}),
            "aggregates": {name: dict(figures) for name, figures in self.aggregates.items()},
            "notes": list(self.notes),
        }

    def to_json(self) -> dict[str, Any]:
        """The headline and the details, side by side."""
        return {**self.headline(), **self.details}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """One model on one set of labelled records, as evaluation.json holds it. benchmarks: as their own `to_json`."""

    created: str
    data: tuple[str, ...]
    seed: int
    model: LabelledEvaluation
    benchmarks: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, no number NaN or infinite; the envelope of every evaluation."""
        model = {**self.model.to_json(), "adversarial": None, "benchmarks": list(self.benchmarks)}
        return evaluation_json(created=self.created, data=self.data, seed=self.seed, models=[model])
