"""The parts of the page, in order. Each is a function of figures that returns a Section; none knows HTML."""

from __future__ import annotations

from collections.abc import Sequence

from rmray.evaluation.labelled import LABELLED
from rmray.evaluation.report.blocks import Section
from rmray.evaluation.report.read import View
from rmray.evaluation.report.run_facts import RunFacts
from rmray.evaluation.report.sections.benchmarks import benchmarks
from rmray.evaluation.report.sections.compare import comparison
from rmray.evaluation.report.sections.disagreement import disagreement
from rmray.evaluation.report.sections.errors import worst_errors
from rmray.evaluation.report.sections.facts import left_out, run_facts
from rmray.evaluation.report.sections.headline import headline, notes
from rmray.evaluation.report.sections.labelled import labelled_sections
from rmray.evaluation.report.sections.pressure import best_of_n, perturbations
from rmray.evaluation.report.sections.scores import calibration, margins, rewards
from rmray.evaluation.report.sections.slices import deciles, length, sources, surface_forms
from rmray.evaluation.report.sections.training import training


def build_sections(evaluation: View, run: RunFacts | None, previous: Sequence[View]) -> list[Section]:
    """All sections of the page about the evaluation's first model, in order; some are empty, with a reason."""
    model = evaluation.parts("models")[0]
    if model.text("records") in LABELLED:
        return labelled_sections(evaluation, run, previous)
    return [
        headline(model),
        notes(model),
        comparison(evaluation, previous),
        training(run),
        rewards(model),
        margins(model),
        calibration(model),
        *disagreement(model),
        length(model),
        deciles(model),
        sources(model),
        surface_forms(model),
        best_of_n(model),
        perturbations(model),
        benchmarks(model),
        worst_errors(model),
        left_out(model, run),
        run_facts(evaluation, model, run),
    ]
