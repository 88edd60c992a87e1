"""One global step on one rank: forward and backward of its micro-batches, exact means over all ranks. Called by `loop`.

Loss and gradient are (sum over all pairs, or prompts, of all ranks) / (their global weight): each micro-batch's sum is
scaled by world size / global weight, and the engine averages over ranks. Legend: S scores, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from rmray.data.prepared import Row
from rmray.data.shares import StepShare
from rmray.objectives import LossTerms, sum_terms
from rmray.training.collate import MicroBatch
from rmray.training.engine import Engine, Ranks
from rmray.training.objective import Objective

MAX_NAMED_ROWS = 64


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to, exact over the global batch and the same on every rank.

    loss: by the objective's unit: pair, prompt, token or step; units: how many. Where completions are compared,
    accuracy, margin, ... are of strictly ordered pairs, whatever the unit; else accuracy is of the units, and there are
    no pairs. score_std: of the pairs' scores, else of the probabilities that tokens or steps are right.
    loss and the means: None where they are not finite. grad_norm: before clipping, None likewise. applied: False where
    loss or gradient was not finite: then no weight of any rank has moved, and faulty_row_ids names the suspects (the
    rows with such a loss, or all rows where only the gradient was not finite; 64 at most). gap_max: the largest
    absolute gap of a pair, None without pairs. flagged: some rank raised its flag; no figure of the step.
    """

    step: int
    epoch: int
    lr: float
    loss: float | None
    accuracy: float | None
    margin: float | None
    mean_chosen: float | None
    mean_rejected: float | None
    score_std: float | None
    score_min: float | None
    score_max: float | None
    grad_norm: float | None
    ties: int
    pairs: int
    units: int
    comparisons: int
    tokens: int
    row_ids_hash: str
    applied: bool
    faulty_row_ids: tuple[str, ...] = ()
    gap_max: float | None = None
    flagged: bool = False


def train_step(
    engine: Engine,
    share: StepShare,
    micro_batches: Sequence[MicroBatch],
    objective: Objective,
    *,
    lr: float,
    seed: int,
    flag: float = 0.0,
) -> StepResult:
    """Run one step, given the rank's share of it as `collate` made it.

    This function waits for the device once, at the end; DeepSpeed's stages 1 to 3 decide on the CPU whether a step is
    made, and wait for that too.

    seed: of dropout; with the step and the rank it decides every random number. flag: more than 0 where this rank has
    something to tell all of them (it is to be preempted); they learn of it as `StepResult.flagged`. It rides on the
    step's first message.
    """
    ranks = engine.ranks
    engine.backbone.train()
    torch.manual_seed(_dropout_seed(seed, share.step, ranks.rank))
    own_weight = objective.weight(row for rows in share.micro_batches for row in rows)
    weight_and_flags = ranks.sum(torch.stack([_scalar(value, ranks.device) for value in (own_weight, flag)]))
    scale = (ranks.world_size / weight_and_flags[0].clamp(min=1.0)).float()
    done: list[LossTerms] = []
    seen_scores_S: list[torch.Tensor] = []
    so_far = torch.zeros((), device=ranks.device)
    for i, micro_batch in enumerate(micro_batches):
        scores_S = engine.forward(micro_batch.batch)
        terms = objective.terms(scores_S, micro_batch.targets)
        so_far = so_far + terms.loss_sum.detach()
        # An infinite loss can have a finite gradient. Made NaN, it makes the norm over all ranks NaN, and the engines
        # drop such a step on every rank together: no extra message between ranks.
        sound = torch.where(torch.isfinite(so_far), 1.0, torch.nan)
        engine.backward(terms.loss_sum * scale * sound, last=i == len(micro_batches) - 1)
        done.append(detached(terms))
        seen_scores_S.append(scores_S.detach())
    update = engine.step(lr)
    total, (grad_norm, applied, flags) = over_ranks(
        sum_terms(done), ranks, update.grad_norm, update.applied, weight_and_flags[1]
    )
    engine.updates += bool(applied)
    return StepResult(
        step=share.step,
        epoch=share.epoch,
        lr=lr,
        grad_norm=_finite(grad_norm),
        comparisons=share.num_comparisons,
        tokens=share.num_tokens,
        row_ids_hash=share.row_ids_hash,
        applied=bool(applied),
        faulty_row_ids=() if applied else _faulty_rows(share, done, seen_scores_S, objective, ranks),
        flagged=flags > 0,
        **means(total),
    )


def detached(terms: LossTerms) -> LossTerms:
    return replace(terms, loss_sum=terms.loss_sum.detach())


def _scalar(value: float, device: torch.device) -> torch.Tensor:
    """float64 on the device, filled there: a copy from the CPU would wait for it."""
    return torch.full((), value, dtype=torch.float64, device=device)


def over_ranks(terms: LossTerms, ranks: Ranks, *facts: torch.Tensor) -> tuple[LossTerms, list[float]]:
    """The same terms of all ranks together, on the CPU, and other scalars that lie on the device, fetched with them."""
    names = sorted(terms.metrics)
    weight = _scalar(terms.weight, terms.loss_sum.device)
    sums = ranks.sum(torch.stack([terms.loss_sum.double(), *(terms.metrics[n] for n in names), weight]))
    extremes = ranks.max(torch.stack([-terms.score_min, terms.score_max, terms.gap_max]))
    here = torch.cat([sums, extremes, *(fact.double().reshape(1) for fact in facts)]).cpu()  # the one wait
    loss_sum, *rest = here[: len(sums)]
    low, high, gap = here[len(sums) : len(sums) + 3]
    metrics = dict(zip(names, rest[:-1], strict=True))
    return LossTerms(loss_sum, float(rest[-1]), metrics, -low, high, gap), here[len(sums) + 3 :].tolist()


def means(total: LossTerms) -> dict[str, Any]:
    """The one division: the loss by its weight, what is told of pairs, tokens or steps by their number. None where
    there is none."""
    pairs = int(total.metrics.get("pairs", 0))
    count = pairs if "pairs" in total.metrics else total.weight
    mean = {name: _finite(float(value) / count) if count else None for name, value in total.metrics.items()}
    return {
        "loss": _finite(float(total.loss_sum) / total.weight) if total.weight else None,
        "accuracy": mean["correct"],
        "margin": mean.get("margin_sum"),
        "mean_chosen": mean.get("chosen_sum"),
        "mean_rejected": mean.get("rejected_sum"),
        "score_std": _spread(mean),
        "score_min": _finite(float(total.score_min)),
        "score_max": _finite(float(total.score_max)),
        "gap_max": _finite(float(total.gap_max)),
        "ties": int(total.metrics.get("ties", 0)),
        "pairs": pairs,
        "units": int(total.weight),
    }


def _spread(mean: Mapping[str, float | None]) -> float | None:
    """Of the scores of pairs, from means over pairs; without pairs of the probabilities that were read, from theirs."""
    prob, prob_square = mean.get("prob_sum"), mean.get("prob_sq_sum")
    if prob is not None and prob_square is not None:
        return math.sqrt(max(0.0, prob_square - prob**2))
    chosen, rejected, square = (mean.get(name) for name in ("chosen_sum", "rejected_sum", "score_sq_sum"))
    if chosen is None or rejected is None or square is None:
        return None
    return math.sqrt(max(0.0, square / 2 - ((chosen + rejected) / 2) ** 2))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _faulty_rows(
    share: StepShare,
    done: Sequence[LossTerms],
    seen_scores_S: Sequence[torch.Tensor],
    objective: Objective,
    ranks: Ranks,
) -> tuple[str, ...]:
    per_batch = zip(share.micro_batches, done, seen_scores_S, strict=True)
    suspects = [
        row.row_id
        for rows, terms, scores_S in per_batch
        if not torch.isfinite(terms.loss_sum)
        for row in _rows_without_a_loss(rows, scores_S, objective)
    ]
    everything = [row.row_id for rows in share.micro_batches for row in rows]
    gathered = ranks.gather((suspects, everything))
    named = [row_id for own, _ in gathered for row_id in own] or [row_id for _, own in gathered for row_id in own]
    return tuple(sorted(named)[:MAX_NAMED_ROWS])


def _rows_without_a_loss(rows: Sequence[Row], scores_S: torch.Tensor, objective: Objective) -> Sequence[Row]:
    """Rows whose own loss is not finite, of a micro-batch whose loss is not; all where it is the sum that ran over."""
    alone = zip(rows, scores_S.split([objective.num_scores(row) for row in rows]), strict=True)
    losses = [objective.terms(own_S, objective.targets([row])).loss_sum for row, own_S in alone]
    return [row for row, loss in zip(rows, losses, strict=True) if not torch.isfinite(loss)] or rows


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step and rank, so that a resumed run draws what the run left alone draws."""
    return int(np.random.SeedSequence([seed & 0xFFFFFFFF, step, rank]).generate_state(1, np.uint64)[0] >> 1)
