"""The result of an evaluation: frozen records with all their counts, and how to read them. Made by `figures`.

evaluation.json is `EvaluationSet.to_json()`: what `rmray evaluate --output` writes, and reports and cards read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rmray import __version__
from rmray.evaluation.comparison import ModelComparison
from rmray.evaluation_file import EVALUATION_FORMAT as EVALUATION_FORMAT
from rmray.evaluation_file import load_evaluation as load_evaluation
from rmray.evaluation_file import save_evaluation as save_evaluation
from rmray.metrics.agreement import Difference
from rmray.metrics.intervals import Interval
from rmray.metrics.ranking import Ranking
from rmray.metrics.summary import PairMetrics

# Accuracy on human preferences: from here upwards the name holds.
ACCURACY_LEGEND = {0.0: "weak", 0.65: "good", 0.75: "excellent", 0.85: "above what people agree on"}
CHANCE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of one scorer on one set of comparisons, in JSON-able types; no field is ever NaN or infinite.

    Counts add up: rows = comparisons + sum(quarantined); pairs + unscored_pairs = strictly ordered pairs of all
    comparisons; unordered: comparisons whose completions all tie, which make no pair. quarantined: bad rows by reason.
    failed: completions without a score, by code.

    accuracy: share of pairs with r_c > r_r, strictly, with its 95% interval over prompts; ties: pairs of equal scores.
    margin, mean_chosen, mean_rejected: in raw score units. ece, brier: of sigmoid(r_c - r_r). temperature: None where
    no finite one fits. length_rule_*: the rule "more characters wins" on the same pairs. notes: what a reader must
    know before quoting a figure.
    """

    model_name: str
    model_version: str
    kind: str
    rows: int
    comparisons: int
    quarantined: Mapping[str, int]
    unordered: int
    failed: Mapping[str, int]
    unscored_pairs: int
    pairs: int
    prompts: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ties: int
    margin: float
    mean_chosen: float
    mean_rejected: float
    ece: float
    brier: float
    temperature: float | None
    length_rule_accuracy: float
    length_rule_low: float
    length_rule_high: float
    length_rule_ties: int
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def headline(self) -> dict[str, Any]:
        """All fields but the details, as plain JSON types; `json.dumps(..., allow_nan=False)` takes it."""
        figures = asdict(self)
        del figures["details"]
        return {**figures, "notes": list(self.notes)}

    def to_json(self) -> dict[str, Any]:
        """The headline and the details, side by side."""
        return {**self.headline(), **self.details}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One or more models on the same comparisons, the first one the subject.

    created: ISO 8601. data: names of the files. comparisons: of the subject with each other model. adversarial,
    benchmarks: of each model, where they were run, as their own `to_json` gives them.
    """

    created: str
    data: tuple[str, ...]
    seed: int
    models: tuple[Evaluation, ...]
    comparisons: tuple[ModelComparison, ...] = ()
    adversarial: tuple[Mapping[str, Any] | None, ...] = ()
    benchmarks: tuple[tuple[Mapping[str, Any], ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, no number NaN or infinite."""
        models = [model.to_json() for model in self.models]
        for i, model in enumerate(models):
            model["adversarial"] = self.adversarial[i] if self.adversarial else None
            model["benchmarks"] = list(self.benchmarks[i]) if self.benchmarks else []
        comparisons = [comparison.to_json() for comparison in self.comparisons]
        return evaluation_json(
            created=self.created, data=self.data, seed=self.seed, models=models, comparisons=comparisons
        )


def evaluation_json(
    *,
    created: str,
    data: Sequence[str],
    seed: int,
    models: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The envelope of evaluation.json, whatever records the models were evaluated on."""
    return {
        "format": EVALUATION_FORMAT,
        "rmray": __version__,
        "created": created,
        "data": list(data),
        "seed": seed,
        "models": list(models),
        "comparisons": list(comparisons),
    }


def accuracy_name(accuracy: float, low: float) -> str:
    """The legend's word for an accuracy on human preferences, where its interval begins above chance."""
    if low <= CHANCE < accuracy:
        return "not told from chance"
    return [name for least, name in ACCURACY_LEGEND.items() if accuracy >= least][-1]


def reading_notes(
    metrics: PairMetrics,
    rule: Ranking,
    rule_interval: Interval,
    *,
    wins_over_losses: Interval,
    versus_length: Difference | None,
) -> list[str]:
    """Sentences about what the figures do not say by themselves; empty where nothing stands out.

    wins_over_losses: of the share of pairs won minus lost. versus_length: accuracy beside the length rule, pair by
    pair; None for a scorer that is a plain rule itself.
    """
    notes = []
    if metrics.ties == metrics.pairs:
        notes.append("Every pair is a tie: the scorer does not tell any two completions apart.")
    elif metrics.ties:
        notes.append(f"{metrics.ties} of {metrics.pairs} pairs are ties, and a tie is not counted as a win.")
    if metrics.prompts == 1:
        notes.append("All pairs are of one prompt: they say nothing about other prompts (interval 0 to 1).")
    elif metrics.accuracy_low == metrics.accuracy_high and metrics.ties < metrics.pairs:
        notes.append("Pairs of all prompts came out alike: resampling cannot widen the interval beyond them.")
    elif wins_over_losses.low <= 0 <= wins_over_losses.high:
        notes.append("Pairs are not clearly won more often than lost: this accuracy cannot be told from chance.")
    if versus_length and rule.accuracy > CHANCE and versus_length.difference_low <= 0 and metrics.prompts > 1:
        notes.append(
            f"Picking the longer completion scores {rule.accuracy:.3f} [{rule_interval.low:.3f}, "
            f"{rule_interval.high:.3f}]: the model is not clearly better than length alone (by "
            f"{versus_length.difference:+.3f} [{versus_length.difference_low:+.3f}, "
            f"{versus_length.difference_high:+.3f}])."
        )
    if metrics.temperature is None and metrics.ties < metrics.pairs:
        reason = "no pair is lost" if metrics.margin > 0 else "the mean gap is not positive"
        notes.append(f"No temperature fits: {reason}.")
    return notes
