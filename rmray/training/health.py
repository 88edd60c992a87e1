"""Tell of a run that goes wrong: not learning, overfit, collapsed, unstable. Pure; `worker` puts its hook to the loop.

`HealthMonitor` decides from figures alone and `WatchHealth` tells what it found. A hook that saves comes after it, so
that a checkpoint remembers what has been told.

What is judged, and what is left alone:

- *not learning*: the first evaluation made when a third of the steps is done, and no other. The upper end of the
  interval counts, so that few held-out pairs are no reason to warn. It never clears: there is no second look.
- *overfit*: every evaluation, against the training pairs of the steps since the one before (their 95% Wilson interval).
  Training pairs are scored before the step that learns from them: in a first epoch they are as unseen as held-out ones.
  Wilson's interval takes pairs for independent and is too narrow where a prompt has many; the 0.15 carries the rule.
- *collapse*: steps after the warm-up; before, a fresh head may well score everything alike. One freak batch is no
  collapse: three steps in a row must agree. The spread "after warm-up" is the median of the first five steps after it.
  Without pairs, where completions or steps are labelled, the spread of their probabilities alone counts.
- *unstable*: a step that was skipped, at once; else the loss against the median of the 50 before it, once there are 10.
  A step of fewer than 32 comparisons (the last of an epoch, a small batch) is taken together with those before it, or
  the noise of a few would pass for an explosion; the pairs of one prompt rise and fall together. Medians below 0.1
  count as 0.1: near zero, a few confidently misranked pairs of a batch are three times the loss.

A warning is told once, and again only after it has cleared: overfit at an evaluation with a difference of 0.10 or less,
collapse after three steps in a row that are none, unstable after ten steps in a row that are none. A figure that hovers
about its threshold is so told once. Clearing is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from scipy.stats import binomtest

from rmray.training.early_stopping import Evaluated
from rmray.training.health_words import PAIRS, WORDS, Words

if TYPE_CHECKING:
    from rmray.training.engine import Engine
    from rmray.training.loop import Progress
    from rmray.training.step import StepResult

LEARNED_ACCURACY = 0.6  # chance is 0.5; held-out accuracy whose interval ends below has not left it
LEARNING = {"eval_auc": "AUC", "eval_step_auc": "AUC over steps", "eval_accuracy": "accuracy"}
"""What shows that a model learns, the first that there is: where one label is rare, accuracy alone does not."""
LEARNED_BY = 3  # one third of the run

OVERFIT_GAP = 0.15
OVERFIT_CLEARED_GAP = 0.10

COLLAPSED_SPREAD = 0.01  # of the scores' std just after warm-up
COLLAPSED_GAP = 1e-3  # score units; every pair of the step is closer
SPREAD_STEPS = 5
COLLAPSED_STEPS = 3  # in a row; as many sound ones clear it

UNSTABLE_RATIO = 3.0
MEDIAN_STEPS, MEDIAN_MIN_STEPS = 50, 10
JUDGED_COMPARISONS = 32
LOWEST_MEDIAN = 0.1
CALM_STEPS = 10  # applied, none over the ratio: these clear it


@dataclass(frozen=True, slots=True)
class HealthWarning:
    """kind: of the four. seen: what was measured, and against what. figures: the same as numbers, JSON. words: how what
    is judged is spoken of."""

    kind: str
    step: int
    seen: str
    figures: dict[str, Any]
    words: Words = PAIRS

    @property
    def why(self) -> str:
        """Why it matters."""
        return self.words.reasons[self.kind][0]

    @property
    def advice(self) -> str:
        """What to try."""
        return self.words.reasons[self.kind][1]

    @property
    def message(self) -> str:
        return f"{self.kind} at step {self.step}: {self.seen}. {self.why} What to try: {self.advice}"


class HealthMonitor:
    """Reads a run's figures in order and says what is wrong. The same figures give the same warnings.

    num_steps: of the whole run; warmup_steps: at its beginning. memory: what `memory()` gave after the step that a run
    is resumed from; it then warns as the run left alone. objective: its name, for the words alone.
    """

    def __init__(
        self,
        num_steps: int,
        warmup_steps: int,
        memory: dict[str, Any] | None = None,
        *,
        objective: str = "bradley_terry",
    ) -> None:
        self._num_steps, self._warmup_steps = num_steps, warmup_steps
        self._words = WORDS.get(objective, PAIRS)
        memory = memory or {}
        self._told: set[str] = set(memory.get("told", ()))
        self._judged_learning: bool = memory.get("judged_learning", False)
        self._train_correct: int = memory.get("train_correct", 0)
        self._train_pairs: int = memory.get("train_pairs", 0)
        self._first_spreads: list[float] = list(memory.get("first_spreads", ()))
        self._flat_steps: int = memory.get("flat_steps", 0)
        self._lively_steps: int = memory.get("lively_steps", 0)
        self._recent: list[tuple[float, int]] = [(loss, count) for loss, count in memory.get("recent", ())]
        self._losses: list[float] = list(memory.get("losses", ()))
        self._calm_steps: int = memory.get("calm_steps", 0)

    def memory(self) -> dict[str, Any]:
        """What a resumed run needs to go on watching; JSON, some 60 numbers."""
        return {
            "told": sorted(self._told),
            "judged_learning": self._judged_learning,
            "train_correct": self._train_correct,
            "train_pairs": self._train_pairs,
            "first_spreads": list(self._first_spreads),
            "flat_steps": self._flat_steps,
            "lively_steps": self._lively_steps,
            "recent": [list(entry) for entry in self._recent],
            "losses": list(self._losses),
            "calm_steps": self._calm_steps,
        }

    def after_step(self, result: StepResult) -> list[HealthWarning]:
        """What a training step shows."""
        if result.applied and result.accuracy is not None:
            count = result.pairs or result.comparisons  # a completion's tokens or steps are no independent units
            self._train_correct += round(result.accuracy * count)
            self._train_pairs += count
        found = [self._unstable(result), self._collapse(result)]
        return [warning for warning in found if warning]

    def after_evaluation(self, step: int, figures: Mapping[str, float]) -> list[HealthWarning]:
        """What held-out figures (`eval_accuracy` and its interval) show, made after step `step` was told."""
        found = [self._not_learning(step, figures), self._overfit(step, figures)]
        return [warning for warning in found if warning]

    def _once(self, kind: str, step: int, seen: str, figures: dict[str, Any]) -> HealthWarning | None:
        if kind in self._told:
            return None
        self._told.add(kind)
        return HealthWarning(kind, step, seen, figures, self._words)

    def _not_learning(self, step: int, figures: Mapping[str, float]) -> HealthWarning | None:
        if self._judged_learning or (step + 1) * LEARNED_BY < self._num_steps:
            return None
        self._judged_learning = True
        name, word = next((name, word) for name, word in LEARNING.items() if figures.get(name) is not None)
        high = figures[f"{name}_high"]
        if high >= LEARNED_ACCURACY:
            return None
        seen = (
            f"held-out {word} is {figures[name]:.3f}, {high:.3f} at most, after {step + 1} of "
            f"{self._num_steps} steps; {LEARNED_ACCURACY} is expected by a third"
        )
        picked = {key: figures[key] for key in (name, f"{name}_low", f"{name}_high")}
        return self._once("not learning", step, seen, picked)

    def _overfit(self, step: int, figures: Mapping[str, float]) -> HealthWarning | None:
        correct, pairs = self._train_correct, self._train_pairs
        self._train_correct = self._train_pairs = 0
        if not pairs:
            return None
        train, held_out, high = correct / pairs, figures["eval_accuracy"], figures["eval_accuracy_high"]
        low = float(binomtest(correct, pairs).proportion_ci(0.95, method="wilson").low)
        if train - held_out <= OVERFIT_CLEARED_GAP:
            self._told.discard("overfit")
        if train - held_out <= OVERFIT_GAP or low <= high:
            return None
        seen = (
            f"accuracy is {train:.3f} on the {pairs} {self._words.trained_on} since the last evaluation but "
            f"{held_out:.3f} on held-out ones; the 95% intervals ({low:.3f} and up, {high:.3f} and down) lie apart"
        )
        picked = {"train_accuracy": train, "train_accuracy_low": low, f"train_{self._words.judged}": pairs}
        return self._once("overfit", step, seen, picked | {"eval_accuracy": held_out, "eval_accuracy_high": high})

    def _collapse(self, result: StepResult) -> HealthWarning | None:
        spread, gap_max = result.score_std, result.gap_max
        if result.step < self._warmup_steps or not result.applied or spread is None:
            return None
        usual = median(self._first_spreads) if len(self._first_spreads) == SPREAD_STEPS else None
        if usual is None:
            self._first_spreads.append(spread)
        narrow = usual is not None and spread < COLLAPSED_SPREAD * usual
        if not narrow and (gap_max is None or gap_max >= COLLAPSED_GAP):
            self._flat_steps = 0
            self._lively_steps += 1
            if self._lively_steps >= COLLAPSED_STEPS:
                self._told.discard("collapse")
            return None
        self._flat_steps += 1
        self._lively_steps = 0
        if self._flat_steps < COLLAPSED_STEPS:
            return None
        what = (
            f"the {self._words.spread_of} std is {spread:.2g}, under 1% of the {usual:.2g} just after warm-up"
            if narrow
            else f"no pair's scores are more than {gap_max:.2g} apart"
        )
        seen = f"{what}, as on the {COLLAPSED_STEPS - 1} steps before"
        figures = {"score_std": spread, "score_std_after_warmup": usual, "gap_max": gap_max}
        return self._once("collapse", result.step, seen, figures)

    def _unstable(self, result: StepResult) -> HealthWarning | None:
        if not result.applied:
            self._calm_steps = 0
            what = "loss" if result.loss is None else "gradient"
            rows = list(result.faulty_row_ids)
            seen = f"the {what} is not finite; the step was skipped, no weight has moved; rows: {', '.join(rows)}"
            return self._once("unstable", result.step, seen, {"faulty_row_ids": rows, "loss": result.loss})
        loss = self._judged_loss(result)
        if loss is None:
            return None
        usual = median(self._losses) if len(self._losses) >= MEDIAN_MIN_STEPS else None
        steps = len(self._losses)
        self._losses = [*self._losses, loss][-MEDIAN_STEPS:]
        if usual is None or loss <= UNSTABLE_RATIO * max(usual, LOWEST_MEDIAN):
            self._calm_steps += 1
            if self._calm_steps >= CALM_STEPS:
                self._told.discard("unstable")
            return None
        self._calm_steps = 0
        seen = f"the loss is {loss:.3g}, over {UNSTABLE_RATIO:g} times its median of {steps} steps, {usual:.3g}"
        return self._once("unstable", result.step, seen, {"loss": loss, "median_loss": usual})

    def _judged_loss(self, result: StepResult) -> float | None:
        """The mean loss of the newest `JUDGED_COMPARISONS`, in whole steps; None before there are so many."""
        if result.loss is None:
            return None
        self._recent.append((result.loss, min(result.pairs or result.comparisons, result.comparisons)))
        total = sum(count for _, count in self._recent)
        while total - self._recent[0][1] >= JUDGED_COMPARISONS:
            total -= self._recent.pop(0)[1]
        if total < JUDGED_COMPARISONS:
            return None
        return sum(loss * count for loss, count in self._recent) / total


class WatchHealth:
    """Tells `HealthMonitor`'s warnings, after `hooks.Evaluate` and before whatever saves.

    tell: (kind, message, fields), called on every rank alike; fields are JSON: `step`, `seen`, `why`, `advice` and
    `figures`. memory: what `memory()` gave at the step resumed from. objective: its name.
    """

    def __init__(
        self,
        evaluate: Evaluated,
        tell: Callable[[str, str, dict[str, Any]], None],
        num_steps: int,
        warmup_steps: int,
        memory: dict[str, Any] | None = None,
        *,
        objective: str = "bradley_terry",
    ) -> None:
        self._evaluate, self._tell = evaluate, tell
        memory = memory or {}
        self._monitor = HealthMonitor(num_steps, warmup_steps, memory.get("monitor"), objective=objective)
        self._evaluated_step: int | None = memory.get("evaluated_step")

    def __call__(self, engine: Engine, progress: Progress) -> None:
        warnings = self._monitor.after_step(progress.result)
        step = self._evaluate.latest_step
        if step is not None and step != self._evaluated_step:
            self._evaluated_step = step
            warnings += self._monitor.after_evaluation(step, self._evaluate.latest)
        for w in warnings:
            fields = {"step": w.step, "seen": w.seen, "why": w.why, "advice": w.advice, "figures": w.figures}
            self._tell(w.kind, w.message, fields)

    def memory(self) -> dict[str, Any]:
        """What a resumed run needs to warn as the run left alone; JSON."""
        return {"monitor": self._monitor.memory(), "evaluated_step": self._evaluated_step}
