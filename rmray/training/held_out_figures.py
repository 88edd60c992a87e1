"""Held-out figures while training, exact over all ranks. Called by the hook `Evaluate`. Legend: S scores of a batch.

What is scored is gathered on every rank and ordered by name, so that the figures are the same on any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rmray.data.batch import build_batch
from rmray.data.pairs import pairs_of
from rmray.data.prepared import Row
from rmray.errors import TrainingError
from rmray.metrics.aggregates import aggregate
from rmray.metrics.calibration import chosen_is_first
from rmray.metrics.outcome import outcome_metrics
from rmray.metrics.process import process_metrics
from rmray.metrics.summary import pair_metrics
from rmray.models.probabilities import step_probabilities, token_probabilities
from rmray.objectives import LossTerms, sum_terms
from rmray.training.engine import Engine
from rmray.training.objective import Objective
from rmray.training.step import detached, means, over_ranks

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class Scored:
    """One thing that was judged: a pair, or a completion. values: scores or probabilities, by what reads them; told:
    its label, or labels."""

    name: str
    prompt: int
    values: Any = field(compare=False)
    told: Any = field(default=None, compare=False)


def evaluate_shares(
    engine: Engine, shares: Iterable[Sequence[Row]], objective: Objective, *, pooling: str
) -> dict[str, float | None] | None:
    """Figures of the held-out rows, `eval_loss, eval_accuracy, ...`, the same on every rank; None where there is none.

    shares: this rank's micro-batches, as many as on every other rank. Raises TrainingError on a non-finite score.
    """
    ranks = engine.ranks
    engine.backbone.eval()
    done: list[LossTerms] = []
    own: list[Scored] = []
    read, figures_of = FIGURES.get(objective.name, (_scored_pairs, _pair_figures))
    with torch.no_grad():
        for rows in shares:
            scores_S = engine.forward(build_batch([row.group for row in rows], pooling=pooling))
            done.append(detached(objective.terms(scores_S, objective.targets(rows))))
            ends = np.cumsum([objective.num_scores(row) for row in rows], dtype=np.int64)
            own.extend(read(objective, rows, np.split(scores_S.double().cpu().numpy(), ends)[: len(rows)]))
    scored = sorted(item for part in ranks.gather(own) for item in part)
    if not scored:
        return None
    broken = [item.name for item in scored if not np.isfinite(item.values).all()]
    if broken:
        what = "pairs" if objective.compares else "completions"
        raise TrainingError(
            f"{len(broken)} held-out {what} have a score that is not finite",
            where=", ".join(broken[:5]),
            why="the weights are broken",
            next_step="lower optim.lr, and resume from an earlier checkpoint",
        )
    loss = means(over_ranks(sum_terms(done), ranks)[0])["loss"]
    return {"eval_loss": float(loss if loss is not None else math.nan), **figures_of(scored)}


def _scored_pairs(objective: Objective, rows: Sequence[Row], scores: Sequence[Scores]) -> list[Scored]:
    """Chosen and rejected score of each pair, which is named as `evaluation` names it."""
    found = []
    for row, scores_K in zip(rows, scores, strict=True):
        for better, worse in pairs_of(row.ranks):
            values = (float(scores_K[better]), float(scores_K[worse]))
            found.append(Scored(f"{row.row_id}:{better}:{worse}", row.prompt_key, values))
    return found


def _pair_figures(scored: Sequence[Scored]) -> dict[str, float | None]:
    chosen, rejected = zip(*(item.values for item in scored), strict=True)
    first_P = chosen_is_first([item.name for item in scored])
    figures = pair_metrics(chosen, rejected, prompts_P=[item.prompt for item in scored], first_P=first_P)
    return {
        "eval_accuracy": figures.accuracy,
        "eval_accuracy_low": figures.accuracy_low,
        "eval_accuracy_high": figures.accuracy_high,
        "eval_ece": figures.ece,
        "eval_margin": figures.margin,
        "eval_mean_chosen": figures.mean_chosen,
        "eval_mean_rejected": figures.mean_rejected,
        "eval_ties": figures.ties,
        "eval_pairs": figures.pairs,
        "eval_prompts": figures.prompts,
    }


def _scored_completions(objective: Objective, rows: Sequence[Row], scores: Sequence[Scores]) -> list[Scored]:
    """The score of a completion, as the bundle makes it of its tokens' probabilities, and whether it is right."""
    return [
        Scored(row.row_id, row.prompt_key, _score(logits_S, objective.aggregate or "mean"), bool(row.labels[0]))
        for row, logits_S in zip(rows, scores, strict=True)
    ]


def _score(logits_S: Scores, name: str) -> float:
    probabilities_S = token_probabilities(logits_S)
    if not np.isfinite(probabilities_S).all():
        return math.nan  # which `evaluate_shares` tells of
    return float(getattr(aggregate(probabilities_S), name))


def _outcome_figures(scored: Sequence[Scored]) -> dict[str, float | None]:
    figures = outcome_metrics(
        [item.values for item in scored], [item.told for item in scored], [item.prompt for item in scored]
    )
    return {
        "eval_accuracy": figures.accuracy,
        "eval_accuracy_low": figures.accuracy_low,
        "eval_accuracy_high": figures.accuracy_high,
        "eval_auc": figures.auc,
        "eval_auc_low": figures.auc_low,
        "eval_auc_high": figures.auc_high,
        "eval_ece": figures.ece,
        "eval_examples": figures.examples,
        "eval_prompts": figures.prompts,
    }


def _scored_solutions(objective: Objective, rows: Sequence[Row], scores: Sequence[Scores]) -> list[Scored]:
    """The probability of each class at each step of a solution, and the steps' labels."""
    return [
        Scored(row.row_id, row.prompt_key, step_probabilities(logits_SC), row.labels)
        for row, logits_SC in zip(rows, scores, strict=True)
    ]


def _process_figures(scored: Sequence[Scored]) -> dict[str, float | None]:
    figures = process_metrics(
        [item.values for item in scored], [item.told for item in scored], [item.prompt for item in scored]
    )
    return {
        "eval_accuracy": figures.step_accuracy,
        "eval_accuracy_low": figures.step_accuracy_low,
        "eval_accuracy_high": figures.step_accuracy_high,
        "eval_first_error_f1": figures.first_error_f1,
        "eval_first_error_f1_low": figures.first_error_f1_low,
        "eval_first_error_f1_high": figures.first_error_f1_high,
        "eval_step_auc": figures.step_auc,
        "eval_step_auc_low": figures.step_auc_low,
        "eval_step_auc_high": figures.step_auc_high,
        "eval_steps": figures.steps,
        "eval_solutions": figures.solutions,
        "eval_prompts": figures.prompts,
    }


FIGURES: dict[str, tuple[Callable[..., list[Scored]], Callable[..., dict[str, float | None]]]] = {
    "outcome": (_scored_completions, _outcome_figures),
    "process": (_scored_solutions, _process_figures),
}
"""By objective: what is kept of a batch, and what is made of all that was kept. Others compare completions."""
