"""Figures of solutions judged step by step. Used by `evaluation` and by held-out evaluation while training.

Legend: N solutions, S steps of one or of all of them, C = 3 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.metrics.intervals import clustered_interval, formula_interval
from rmray.metrics.outcome import on_its_side
from rmray.metrics.ranking import Floats
from rmray.metrics.separation import separation

WRONG, NEUTRAL, RIGHT = -1, 0, 1
LABELS = (WRONG, NEUTRAL, RIGHT)
"""Of a step; its class is its label plus 1."""
UNTOLD = 2
"""Called where two classes are equally likely: the label of no step."""


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """Figures of at least one solution.

    step_accuracy: share of steps called by their label; majority_accuracy: what the most frequent label alone would
    get. wrong_steps, neutral_steps, right_steps: steps by label; *_recall: the share of them called so, None where
    there is none. two_way_accuracy: of the wrong and right steps, the share on their side of a probability of 0.5.
    step_auc: the chance that a right step has a higher probability of being right than a wrong one has.

    error_accuracy: of the solutions with a wrong step, the share whose first wrong one is named exactly;
    right_accuracy: of those without, the share in which none is named; first_error_f1: the harmonic mean of the two
    (ProcessBench, Zheng et al. 2024). None where it takes a kind of solution or step that is not there. *_low, *_high:
    95% intervals over prompts.
    """

    solutions: int
    prompts: int
    steps: int
    step_accuracy: float
    step_accuracy_low: float
    step_accuracy_high: float
    majority_accuracy: float
    wrong_steps: int
    neutral_steps: int
    right_steps: int
    wrong_recall: float | None
    neutral_recall: float | None
    right_recall: float | None
    two_way_accuracy: float | None
    step_auc: float | None
    step_auc_low: float | None
    step_auc_high: float | None
    first_error_f1: float | None
    first_error_f1_low: float | None
    first_error_f1_high: float | None
    error_solutions: int
    right_solutions: int
    error_accuracy: float | None
    right_accuracy: float | None


def process_metrics(
    probs: Sequence[npt.ArrayLike], labels: Sequence[npt.ArrayLike], prompt_N: npt.ArrayLike, *, seed: int = 0
) -> ProcessMetrics:
    """Figures of N solutions from the probabilities [S, C] of wrong, neutral and right, a row a step.

    labels: -1, 0 or 1 of each step of each solution. prompt_N: which prompt each solution is of. Raises ValueError on
    no solution, other shapes, and numbers that are no probabilities or labels.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in probs]
    if any(table.ndim != 2 or table.shape[1] != len(LABELS) for table in tables):
        raise ValueError("the probabilities of a solution must be [S, 3]: wrong, neutral, right")
    return called_metrics(
        [called_labels(table) for table in tables], [table[:, -1] for table in tables], labels, prompt_N, seed=seed
    )


def called_labels(probs_SC: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The label of each step's most likely class; UNTOLD where two are equally likely, which is never right."""
    probs = np.asarray(probs_SC, dtype=np.float64)
    told = (probs == probs.max(axis=1, keepdims=True)).sum(axis=1) == 1
    return np.where(told, probs.argmax(axis=1) - 1, UNTOLD)


def first_error(labels_S: npt.ArrayLike) -> int:
    """Number of the first step that is labelled, or called, wrong, from 0; -1 where none is."""
    wrong = np.flatnonzero(np.asarray(labels_S) == WRONG)
    return int(wrong[0]) if len(wrong) else -1


def called_metrics(
    called: Sequence[npt.ArrayLike],
    right_probs: Sequence[npt.ArrayLike],
    labels: Sequence[npt.ArrayLike],
    prompt_N: npt.ArrayLike,
    *,
    called_errors: Sequence[int] | None = None,
    seed: int = 0,
) -> ProcessMetrics:
    """As `process_metrics`, from the label that each step is called by and its probability of being right.

    called_errors: of each solution the number of its first wrong step, -1 for none; None to take it from `called`.
    """
    called_S, prob_S, label_S, prompt_S = _flat(called, right_probs, labels, np.asarray(prompt_N))
    hit_S = called_S == label_S
    interval = clustered_interval(hit_S, prompt_S, seed=seed, bounds=(0.0, 1.0))
    counts = {label: int(np.count_nonzero(label_S == label)) for label in LABELS}
    recall = {label: float(hit_S[label_S == label].mean()) if counts[label] else None for label in LABELS}
    is_told = label_S != NEUTRAL
    right_S = label_S[is_told] == RIGHT
    apart = separation(prob_S[is_told], right_S, prompt_S[is_told], seed=seed)
    errors = [first_error(of) for of in called] if called_errors is None else called_errors
    return ProcessMetrics(
        solutions=len(labels),
        prompts=interval.clusters,
        steps=len(label_S),
        step_accuracy=float(hit_S.mean()),
        step_accuracy_low=interval.low,
        step_accuracy_high=interval.high,
        majority_accuracy=max(counts.values()) / len(label_S),
        wrong_steps=counts[WRONG],
        neutral_steps=counts[NEUTRAL],
        right_steps=counts[RIGHT],
        wrong_recall=recall[WRONG],
        neutral_recall=recall[NEUTRAL],
        right_recall=recall[RIGHT],
        two_way_accuracy=float(on_its_side(prob_S[is_told], right_S).mean()) if is_told.any() else None,
        step_auc=apart.auc,
        step_auc_low=apart.auc_low,
        step_auc_high=apart.auc_high,
        **_first_error_figures(errors, [first_error(of) for of in labels], np.asarray(prompt_N), seed),
    )


def _flat(
    called: Sequence[npt.ArrayLike],
    right_probs: Sequence[npt.ArrayLike],
    labels: Sequence[npt.ArrayLike],
    prompt_N: npt.NDArray[np.generic],
) -> tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.int64], npt.NDArray[np.generic]]:
    """All steps of all solutions, one after the other, each with its prompt; ValueError where they do not match."""
    if not len(labels):
        raise ValueError("there is no solution")
    if prompt_N.ndim != 1 or not len(called) == len(right_probs) == len(labels) == len(prompt_N):
        raise ValueError(
            f"called {len(called)}, right_probs {len(right_probs)}, labels {len(labels)} and prompts {len(prompt_N)} "
            "must be as many"
        )
    steps = [np.shape(of) for of in labels]
    if any(len(shape) != 1 or not shape[0] for shape in steps):
        raise ValueError("the labels of a solution must be [S] and not empty")
    for name, given in (("called", called), ("right_probs", right_probs)):
        for n, of in enumerate(given):
            if np.shape(of) != steps[n]:
                raise ValueError(f"solution {n} has labels {list(steps[n])} but {name} {list(np.shape(of))}")
    label_S = np.concatenate([np.asarray(of, dtype=np.int64) for of in labels])
    if not np.isin(label_S, LABELS).all():
        raise ValueError("a step's label is neither -1, 0 nor 1")
    prob_S = np.concatenate([np.asarray(of, dtype=np.float64) for of in right_probs])
    if not ((prob_S >= 0) & (prob_S <= 1)).all():
        raise ValueError("a probability lies outside [0, 1]")
    called_S = np.concatenate([np.asarray(of, dtype=np.int64) for of in called])
    return called_S, prob_S, label_S, np.repeat(prompt_N, [shape[0] for shape in steps])


def _first_error_figures(
    called: Sequence[int], true: Sequence[int], prompt_N: npt.NDArray[np.generic], seed: int
) -> dict[str, Any]:
    hit_N, is_error_N = np.equal(called, true), np.greater_equal(true, 0)
    columns_NM = np.stack([hit_N & is_error_N, is_error_N, hit_N & ~is_error_N, ~is_error_N], axis=1).astype(np.float64)
    whole = columns_NM.sum(axis=0)
    figures: dict[str, Any] = {
        "error_solutions": int(whole[1]),
        "right_solutions": int(whole[3]),
        "error_accuracy": float(whole[0] / whole[1]) if whole[1] else None,
        "right_accuracy": float(whole[2] / whole[3]) if whole[3] else None,
        **dict.fromkeys(("first_error_f1", "first_error_f1_low", "first_error_f1_high")),
    }
    if whole[1] and whole[3]:
        score = float(_harmonic_mean(whole[None])[0])
        interval = formula_interval(columns_NM, prompt_N, _harmonic_mean, seed=seed, bounds=(0.0, 1.0))
        figures["first_error_f1"] = score
        # Rounding may put a score an ulp outside an interval without width.
        figures["first_error_f1_low"], figures["first_error_f1_high"] = (
            min(interval.low, score),
            max(interval.high, score),
        )
    return figures


def _harmonic_mean(sums_RM: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of the accuracy on solutions with an error and on right ones; 0 where both are 0, NaN where one kind is
    missing."""
    error_hits, errors, right_hits, rights = sums_RM.T
    with np.errstate(invalid="ignore", divide="ignore"):
        error, right = error_hits / errors, right_hits / rights
        return np.where(error + right == 0, 0.0, 2 * error * right / (error + right))
