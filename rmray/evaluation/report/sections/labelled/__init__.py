"""The parts of the page of an outcome or process model on labelled records. Called by `sections`."""

from __future__ import annotations

from collections.abc import Sequence

from rmray.evaluation.report.blocks import Section
from rmray.evaluation.report.read import View
from rmray.evaluation.report.run_facts import RunFacts
from rmray.evaluation.report.sections.benchmarks import benchmarks
from rmray.evaluation.report.sections.facts import left_out, run_facts
from rmray.evaluation.report.sections.headline import notes
from rmray.evaluation.report.sections.labelled.earlier import earlier
from rmray.evaluation.report.sections.labelled.errors import label_errors
from rmray.evaluation.report.sections.labelled.figures import aggregates, calibration, headline, probabilities
from rmray.evaluation.report.sections.training import training


def labelled_sections(evaluation: View, run: RunFacts | None, previous: Sequence[View]) -> list[Section]:
    """All sections of the page, in order; some are empty, with a reason."""
    model = evaluation.parts("models")[0]
    return [
        headline(model),
        notes(model),
        earlier(evaluation, previous),
        training(run),
        probabilities(model),
        calibration(model),
        aggregates(model),
        benchmarks(model),
        label_errors(model),
        left_out(model, run),
        run_facts(evaluation, model, run),
    ]
