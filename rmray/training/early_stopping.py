"""End a run whose held-out accuracy no longer rises. A hook that `worker` puts after `Evaluate`, before saving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rmray.training.engine import Engine
    from rmray.training.loop import Progress


class Evaluated(Protocol):
    """What `hooks.Evaluate` knows. latest: the newest held-out figures; latest_step: of which step, None before any."""

    latest: dict[str, float]
    latest_step: int | None


def is_out_of_patience(memory: Mapping[str, Any], patience: int | None) -> bool:
    """Whether a run that remembers this, and may be given another patience now, is to end. None: it has no end."""
    return patience is not None and memory["without_better"] >= patience


class StopEarly:
    """Ends the run after `patience` evaluations in a row without a better held-out accuracy than the best so far.

    Better is strictly better. A tie counts as no better: on a finite held-out set equal accuracies are what a model
    shows that has stopped to change, and a run that repeats one figure for ever would never end. The first evaluation
    is the best so far. The figures are the same on every rank, so all ranks stop after the same step. Each evaluation
    counts once; a run without held-out pairs never stops early.

    memory: what `memory()` gave after the step that a run is resumed from; the count goes on from there. Raises
    ValueError on a patience below 1.
    """

    def __init__(self, evaluate: Evaluated, patience: int, memory: dict[str, Any] | None = None) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, it is {patience}")
        self._evaluate, self._patience = evaluate, patience
        memory = memory or {}
        self.best_accuracy: float | None = memory.get("best_accuracy")
        self.best_step: int | None = memory.get("best_step")
        self.without_better: int = memory.get("without_better", 0)
        self._counted_step: int | None = memory.get("counted_step")

    def __call__(self, engine: Engine, progress: Progress) -> None:
        step = self._evaluate.latest_step
        if step is None or step == self._counted_step:
            return
        self._counted_step = step
        accuracy = self._evaluate.latest["eval_accuracy"]
        if self.best_accuracy is None or accuracy > self.best_accuracy:
            self.best_accuracy, self.best_step, self.without_better = accuracy, step, 0
            return
        self.without_better += 1
        if self.without_better >= self._patience:
            progress.is_last = True

    def memory(self) -> dict[str, Any]:
        """What a resumed run needs to go on counting; JSON."""
        return {
            "best_accuracy": self.best_accuracy,
            "best_step": self.best_step,
            "without_better": self.without_better,
            "counted_step": self._counted_step,
        }
