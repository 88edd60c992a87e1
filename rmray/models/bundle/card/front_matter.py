"""The card's header as model hubs read it, evaluation results included, built by `huggingface_hub`. Called by the card.

Results stand in `model-index`, the form for figures on any data set. The Hub's other form, `.eval_results/*.yaml`, is
for benchmarks that are registered there with a task id, which no benchmark of reward models was known to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from rmray.models.bundle.card.facts import CardFacts
from rmray.models.bundle.card.labelled import RESULTS
from rmray.models.bundle.card.licences import license_of
from rmray.models.bundle.card.markdown import finite, hub_id, one_line, public_name, public_text
from rmray.models.bundle.manifest import PLAIN, BundleManifest

TASK_TYPE, TASK_NAME = "text-classification", "Reward modeling"
ACCURACY = "accuracy"

PAIR_RESULTS = (
    (ACCURACY, "accuracy", "Pairwise accuracy"),
    ("ece", "ece", "Expected calibration error (10 bins)"),
    ("brier_score", "brier", "Brier score"),
)
# Where benchmarks are published: their data set's id in the metadata. Others get an id made of their name.
BENCHMARK_DATASETS = {
    "rewardbench": "allenai/reward-bench",
    "rewardbench2": "allenai/reward-bench-2",
    "rm-bench": "THU-KEG/RM-Bench",
    "judgebench": "ScalerLab/JudgeBench",
    "ppe-human": "lmarena-ai/PPE-Human-Preference-V1",
    "processbench": "Qwen/ProcessBench",
}
# What each benchmark's headline is. A mean of accuracies over sections is one; what is none has a type of its own.
BENCHMARK_METRICS = {
    "rewardbench": ACCURACY,
    "rewardbench2": "rewardbench2_score",  # best of four, and the formula of Ties
    "rm-bench": ACCURACY,
    "judgebench": ACCURACY,
    "ppe-human": ACCURACY,
    "ppe-correctness": ACCURACY,
    "processbench": "f1",
    "llmbar": ACCURACY,
}
OTHER_METRIC = "score"


def front_matter(manifest: BundleManifest, facts: CardFacts, model: Mapping[str, Any] | None) -> ModelCardData:
    """The header. model: the evaluation's figures of this model, None without one. Raises ValueError as ModelCardData
    does."""
    license = facts.license or (license_of(manifest.license) if manifest.license else None)
    results = list(eval_results(model, facts.evaluation or {})) if model is not None else []
    options: dict[str, Any] = {"model_name": _name(manifest, facts), "eval_results": results} if results else {}
    datasets = sorted({found for name in manifest.data_hashes if (found := hub_id(name))})
    return ModelCardData(
        library_name="transformers" if manifest.loads_with == PLAIN else "rmray",
        pipeline_tag=TASK_TYPE,
        tags=["reward-model", "rlhf", "rmray"],
        base_model=hub_id(manifest.base_model),
        license=license.id if license else None,
        license_name=license.name if license else None,
        license_link=license.link if license else None,
        datasets=datasets or None,
        language=list(facts.languages) or None,
        metrics=[ACCURACY] if any(result.metric_type == ACCURACY for result in results) else None,
        **options,
    )


def eval_results(model: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterator[EvalResult]:
    """The figures that are the model's own: held-out pairs or records first, then each benchmark's headline.

    A benchmark's sections stand on the card alone: each may have a metric of its own, which no result could name.
    """
    names = [public_name(str(name)) for name in evaluation.get("data") or ()]
    unnamed = "held-out records" if model.get("records") in RESULTS else "held-out comparisons"
    title = one_line(", ".join(names)) or unnamed
    known = hub_id(names[0]) if len(names) == 1 else None
    data = {"dataset_name": title, "dataset_type": known or slug(title)}
    for metric_type, key, name in RESULTS.get(str(model.get("records")), PAIR_RESULTS):
        if (value := finite(model.get(key))) is not None:
            yield _result(data, metric_type, name, value, model, key)
    for benchmark in model.get("benchmarks") or ():
        name = str(benchmark.get("name") or benchmark.get("title") or "benchmark")
        title = one_line(public_text(str(benchmark.get("title") or name)))
        data = {"dataset_name": title, "dataset_type": BENCHMARK_DATASETS.get(name) or slug(name)}
        what = one_line(public_text(str(benchmark.get("metric") or title)))
        if (value := finite(benchmark.get("score"))) is not None:
            metric = BENCHMARK_METRICS.get(name, OTHER_METRIC)
            yield _result(data, metric, what[:1].upper() + what[1:], value, benchmark, "score")


def slug(text: str) -> str:
    """A name as an id: lower case, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80].strip("-") or "comparisons"


def _result(
    data: Mapping[str, Any], metric_type: str, name: str, value: float, of: Mapping[str, Any], key: str
) -> EvalResult:
    low, high = finite(of.get(f"{key}_low")), finite(of.get(f"{key}_high"))
    args: dict[str, Any] | None = None
    if low is not None and high is not None:
        args = {"interval": "95%, bootstrap over prompts", "low": round(low, 4), "high": round(high, 4)}
    return EvalResult(
        task_type=TASK_TYPE,
        task_name=TASK_NAME,
        metric_type=metric_type,
        metric_name=name,
        metric_value=round(value, 4),
        metric_args=args,
        **data,
    )


def _name(manifest: BundleManifest, facts: CardFacts) -> str:
    return one_line(facts.repo.split("/")[-1] if facts.repo else manifest.name) or "reward-model"
