"""The card shows every figure it is given, in the Hub's form too, and nothing that it should not."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from rmray.errors import ConfigError, DataError
from rmray.evaluation.benchmarks import BENCHMARKS
from rmray.models.bundle.card import CardFacts, license_of, render_card
from rmray.models.bundle.card.front_matter import BENCHMARK_METRICS
from rmray.models.bundle.card.markdown import code, hub_id, md, public_name, public_text
from rmray.models.bundle.manifest import PLAIN_TOKENS, WITH_PEFT
from tests.models.bundle.evaluations import SHOWN, evaluation, model_figures
from tests.models.bundle.hand_made import make_manifest

MANIFEST = make_manifest(model_version="0123456789abcdef")
TRAINING = {
    "settings": {"run": {"seed": 7}, "optim": {"lr": 3e-5, "max_steps": None}},
    "data": {"files": [{"split": "train", "path": "/home/me/train.jsonl.gz", "num_rows": 12345, "sha256": "ab" * 32}]},
}


def card_of(**facts: Any) -> str:
    return render_card(MANIFEST, CardFacts(**facts))


def evaluated(**changes: Any) -> dict[str, Any]:
    return evaluation(model_figures(MANIFEST.model_version, **changes))


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_figure_stands_on_the_card() -> None:
    shown = set(re.findall(r"[-\d][\d.,]*\d|\d", section(card_of(evaluation=evaluated()), "Evaluation")))
    assert [figure for figure in SHOWN if figure not in shown] == []
    assert "| Rows in quarantine | 10 |" in card_of(evaluation=evaluated())


def test_the_rules_to_beat_stand_beside_accuracy() -> None:
    lines = section(card_of(evaluation=evaluated()), "Evaluation").splitlines()
    start = lines.index("| Who judges the pairs | Accuracy | 95% interval |")
    assert lines[start + 2 : start + 5] == [
        "| **This model** | **0.713** | 0.687 to 0.737 |",
        "| The longer answer wins | 0.593 | 0.564 to 0.622 |",
        "| Surface features alone (fitted on training pairs) | 0.648 | 0.621 to 0.674 |",
    ]


def test_results_are_in_the_hubs_form(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card_of(evaluation=evaluated(), repo="acme/helpful"))
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.model_name == "helpful"
    results = {
        (r.dataset_type, r.metric_type, r.metric_name): (r.metric_value, r.metric_args) for r in data.eval_results
    }
    bounds = {"interval": "95%, bootstrap over prompts"}
    assert results == {
        ("test-jsonl-gz", "accuracy", "Pairwise accuracy"): (0.7126, {**bounds, "low": 0.6871, "high": 0.7372}),
        ("test-jsonl-gz", "ece", "Expected calibration error (10 bins)"): (0.0614, None),
        ("test-jsonl-gz", "brier_score", "Brier score"): (0.1937, None),
        ("allenai/reward-bench-2", "rewardbench2_score", "Mean over six sections"): (
            0.4419,
            {**bounds, "low": 0.4223, "high": 0.4628},
        ),
    }
    assert {r.task_type for r in data.eval_results} == {data.pipeline_tag} == {"text-classification"}


OUTCOME = {
    "records": "outcome", "examples": 1200, "positives": 700, "prompts": 300, "auc": 0.871, "auc_low": 0.85,
    "auc_high": 0.889, "accuracy": 0.8, "accuracy_low": 0.78, "accuracy_high": 0.82, "majority_accuracy": 0.583,
    "ece": 0.09, "brier": 0.13, "length_rule_auc": 0.44, "bag_of_words_auc": None, "notes": [],
    "aggregates": {"mean": {"auc": 0.871, "auc_low": 0.85, "auc_high": 0.889}, "min": {"auc": None}},
}  # fmt: skip
PROCESS = {
    "records": "process", "steps": 5000, "solutions": 700, "prompts": 300, "first_error_f1": 0.61,
    "first_error_f1_low": 0.57, "first_error_f1_high": 0.65, "step_accuracy": 0.9, "step_auc": 0.93,
    "error_accuracy": 0.5, "right_accuracy": 0.78, "baselines": {"length_rule_auc": 0.52},
}  # fmt: skip


def test_labelled_records_have_figures_and_results_of_their_own(tmp_path: Path) -> None:
    own = {"model_version": MANIFEST.model_version}
    card = card_of(evaluation=evaluation(own | OUTCOME), repo="acme/outcome")
    shown = section(card, "Evaluation")
    assert "1,200 completions of 300 prompts, 700 of them right" in shown
    assert "| AUC of right against wrong completions | 0.871 | 0.850 to 0.889 |" in shown
    assert "| AUC of a bag of words | — | — |" in shown
    assert "| Mean of the probabilities | 0.871 | 0.850 to 0.889 |" in shown
    assert "Its probabilities are not calibrated" in section(card, "Known limits")
    (tmp_path / "README.md").write_text(card)
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert [(r.metric_type, r.metric_value) for r in results][:2] == [("roc_auc", 0.871), ("accuracy", 0.8)]
    assert "Pairwise" not in card
    steps = card_of(evaluation=evaluation(own | PROCESS), repo="acme/process")
    assert "5,000 steps of 700 solutions to 300 prompts" in steps
    assert "| F1 of the first wrong step | 0.610 | 0.570 to 0.650 |" in steps
    assert "| AUC of “longer is right” | 0.520 | — |" in steps


LABELLED = {
    "outcome": {"pooling": "tokens", "aggregate": "mean"},
    "process": {"pooling": "steps", "aggregate": "min"},
}


@pytest.mark.parametrize("kind", LABELLED)
def test_a_card_of_probabilities_does_not_speak_of_comparisons(kind: str) -> None:
    card = render_card(replace(MANIFEST, kind=kind, objective=kind, loads_with=PLAIN_TOKENS, **LABELLED[kind]))
    gives = {
        "outcome": "at each completion token, the probability that the completion is right. The mean of these is",
        "process": "gives each step the probability that it is right. The least of these is the solution's score",
    }
    assert gives[kind] in card
    assert "rmray evaluate --bundle DIR --data labelled.jsonl" in card
    assert f"| Score made by | `{LABELLED[kind]['aggregate']}` |" in section(card, "Training")
    assert "`AutoModelForTokenClassification` loads it and gives the same logits" in card
    told = card.replace("held-out comparisons", "")  # where the reference came from, as the manifest says
    assert not [word for word in ("comparisons", "data prefers", "preferred", "no scale", "{") if word in told]
    assert "probabilit" not in render_card(MANIFEST)


@pytest.mark.parametrize("kind", LABELLED)
def test_a_token_models_adapter_that_lies_apart_needs_peft(kind: str) -> None:
    card = render_card(replace(MANIFEST, kind=kind, objective=kind, loads_with=WITH_PEFT, **LABELLED[kind]))
    usage = section(card, "How to use it")
    assert "transformers alone leaves it out without a word" in usage
    assert 'PeftModel.from_pretrained(model, "DIR/adapter")' in usage
    assert "loads it and gives the same logits" not in usage
    assert "Both together give the same logits" in usage


def test_of_a_benchmark_the_headline_alone_is_a_result_and_by_its_own_metric() -> None:
    sections = [{"name": name, "score": 0.9, "items": 5} for name in ("Ties", "gsm8k: accuracy, error", "best of K")]
    names = ("rewardbench", "rewardbench2", "processbench", "llmbar", "a new one")
    shown = [{"name": name, "metric": f"what {name} is", "score": 0.25, "sections": sections} for name in names]
    data = ModelCard(card_of(evaluation=evaluated(accuracy=None, ece=None, brier=None, benchmarks=shown))).data
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results] == [
        ("accuracy", "What rewardbench is", 0.25),
        ("rewardbench2_score", "What rewardbench2 is", 0.25),
        ("f1", "What processbench is", 0.25),
        ("accuracy", "What llmbar is", 0.25),
        ("score", "What a new one is", 0.25),
    ]
    alone = ModelCard(card_of(evaluation=evaluated(accuracy=None, ece=None, brier=None, benchmarks=shown[1:2]))).data
    assert alone.metrics is None


def test_every_benchmark_has_a_metric() -> None:
    assert set(BENCHMARK_METRICS) == set(BENCHMARKS)


def test_a_whole_number_that_no_float_holds_is_a_missing_figure() -> None:
    card = card_of(evaluation=evaluated(accuracy=10**400, pairs=-(10**400), failed={"x": 10**400}))
    assert "| **This model** | **—** |" in card


def test_header_holds_what_is_known_and_no_more(tmp_path: Path) -> None:
    known = replace(MANIFEST, data_hashes={"acme/pairs:train": "1", "train.jsonl": "2", "acme/pairs:test": "3"})
    facts = CardFacts(license=license_of("Apache-2.0"), languages=("en", "de"))
    data = ModelCard(render_card(known, facts)).data
    assert (data.base_model, data.license, data.language) == ("Qwen/Qwen3-0.6B", "apache-2.0", ["en", "de"])
    assert (data.datasets, data.library_name) == (["acme/pairs"], "transformers")
    assert {"reward-model", "rmray"} <= set(data.tags)
    bare = ModelCard(render_card(replace(MANIFEST, base_model="tiny-base", data_hashes={}))).data.to_dict()
    assert {"base_model", "license", "license_name", "datasets", "language", "metrics", "model-index"} & set(
        bare
    ) == set()


def test_without_an_evaluation_the_card_says_so() -> None:
    card = card_of()
    assert "how good the model is, it cannot say" in section(card, "Evaluation")
    assert "- Nothing was measured: its weak points are not known." in section(card, "Known limits")
    assert "is (score - 0.125) / 1.75" in section(card, "What a reward is")
    assert "400 reference completions" in card
    assert "use the checker" in section(card, "When not to use it, or any reward model")
    assert "None was given" in section(card, "Licence")


def test_figures_that_are_missing_become_dashes() -> None:
    figures = {
        "model_version": MANIFEST.model_version,
        "accuracy": None,
        "surface": None,
        "best_of_n": None,
        "ece": math.nan,
    }
    card = card_of(evaluation=evaluation({**figures, "length": None, "adversarial": None, "benchmarks": []}))
    assert "| **This model** | **—** | — |" in card
    assert "nan" not in section(card, "Evaluation").lower()
    assert "model-index" not in card


def test_weak_points_are_told_from_the_figures() -> None:
    told = section(card_of(evaluation=evaluated()), "Known limits")
    assert "Spearman's correlation with length is 0.313" in told
    assert "0.802 where the chosen answer is the longer one, 0.552" in told
    assert "not shown to beat" not in told
    weak = section(card_of(evaluation=evaluated(accuracy_low=0.5931, ece=0.01)), "Known limits")
    assert "not shown to beat the rule that the longer answer wins (0.593)" in weak
    assert "not shown to beat surface features alone (0.648)" in weak
    assert "no probabilities" not in weak


def test_pairs_that_could_not_be_scored_and_over_long_ones_are_a_limit() -> None:
    told = section(card_of(evaluation=evaluated(unscored_pairs=66)), "Known limits")
    assert "- 66 of 1,300 pairs could not be scored" in told
    assert "could not be scored" not in section(card_of(evaluation=evaluated()), "Known limits").split("reference")[0]
    assert "It reads 1,024 tokens of prompt and completion; longer ones are refused." in told


def test_a_mean_below_zero_is_added() -> None:
    below = replace(MANIFEST, reference=replace(MANIFEST.reference, mean=-0.5))
    assert "is (score + 0.5) / 1.75" in render_card(below)
    assert "MEAN, STD = -0.5, 1.75" in render_card(below)


def test_pictures_stand_in_the_evaluation() -> None:
    plots = ("plots/gap_deciles.png", "plots/reliability.png")
    lines = section(card_of(evaluation=evaluated(), report=True, plots=plots), "Evaluation").splitlines()
    first, fold = (
        lines.index("![reliability](plots/reliability.png)"),
        lines.index("![gap deciles](plots/gap_deciles.png)"),
    )
    assert first < lines.index("<details><summary>More pictures</summary>") < fold < lines.index("</details>")


def test_training_data_and_settings() -> None:
    card = card_of(training=TRAINING)
    assert "| `train.jsonl.gz` | train | 12,345 | `abababababab` |" in section(card, "Training data")
    assert "| `optim.lr` | `3e-05` |" in section(card, "Training")
    assert "max\\_steps" not in card
    assert "optim.max_steps" not in card
    short = card_of()
    assert "| `train.jsonl.gz` | `abababababab` |" in section(short, "Training data")
    for row in ("| Objective | `bradley_terry` |", "1,024 tokens", "| `steps` | 300 |", "| Score read at | `last` |"):
        assert row in section(short, "Training")


def test_neither_paths_of_the_machine_nor_texts_of_the_data_are_on_it() -> None:
    manifest = replace(
        MANIFEST,
        base_model="/home/someone/models/base",
        data_hashes={"/home/someone/data/train.jsonl": "1", "C:\\Users\\someone\\eval.csv": "2"},
        reference=replace(MANIFEST.reference, source="/home/someone/reference.jsonl"),
    )
    data = evaluation(model_figures(MANIFEST.model_version), data=["/home/someone/test.jsonl"])
    card = render_card(manifest, CardFacts(evaluation=data, training=TRAINING))
    assert "/home" not in card
    assert "someone" not in card
    assert "SECRET" not in card
    for name in ("base", "ref.jsonl", "test.jsonl", "reference.jsonl", "train.jsonl.gz"):
        assert name in card
    assert "eval.csv" in render_card(manifest)


@pytest.mark.parametrize(
    "name",
    ["a|b", "</td><script>", "`x` ``y``", "a\n---\nlicense: mit\n---\n# b", "*a* _b_ [c](d) # e", "# a", "- a: {b}"],
)
def test_names_break_neither_markdown_nor_yaml(name: str) -> None:
    changes = {"name": name, "data_hashes": {name: "1"}, "metrics": {name: 1.0}, "base_model": name}
    figures = model_figures(MANIFEST.model_version, notes=[name])
    figures["benchmarks"][0]["title"] = name
    card = render_card(replace(MANIFEST, **changes), CardFacts(evaluation=evaluation(figures, data=[name])))
    data = ModelCard(card).data
    assert data.get("license") is None
    assert "<script>" not in re.sub(r"`[^`]*`", "", card.split("\n---\n", 1)[1])
    plain = render_card(replace(MANIFEST, name="x", base_model="x"), CardFacts(evaluation=evaluated()))
    headings = [[line for line in text.splitlines() if line.startswith("#")] for text in (card, plain)]
    assert len(headings[0]) == len(headings[1])
    for line in card.splitlines():
        if line.startswith("|"):  # each row of a table has the cells of its head
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6, 7)
    rows = section(card, "Training data").splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in rows if line.startswith("|"))


def test_evaluation_of_another_model_is_refused_with_both_versions() -> None:
    with pytest.raises(DataError, match="of model version aaaa, bbbb, and the bundle is 0123456789abcdef"):
        card_of(evaluation=evaluation(model_figures("bbbb"), model_figures("aaaa")))


def test_of_several_models_the_bundles_own_is_taken() -> None:
    other = model_figures("aaaa", accuracy=0.9991)
    card = card_of(evaluation=evaluation(other, model_figures(MANIFEST.model_version)))
    assert "**0.713**" in card
    assert "0.999" not in card


@pytest.mark.parametrize("raw", [[], {}, {"models": []}, {"models": [3]}, {"format": 9, "models": [{}]}])
def test_what_is_no_evaluation_is_refused(raw: Any) -> None:
    with pytest.raises(DataError, match=r"no evaluation|format"):
        card_of(evaluation=raw)


def test_figures_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match="not shaped as rmray writes it"):
        card_of(evaluation=evaluated(benchmarks=["rewardbench"]))


def test_licences() -> None:
    assert license_of("MIT").id == "mit"
    own = license_of("Acme Model Terms 2", link="https://acme.example/terms")
    assert (own.id, own.name) == ("other", "acme-model-terms-2")
    card = card_of(license=own)
    assert ModelCard(card).data.license_link == "https://acme.example/terms"
    assert "`acme-model-terms-2` (<https://acme.example/terms>)" in section(card, "Licence")
    with pytest.raises(ConfigError, match=r"did you mean .apache-2\.0"):
        license_of("apache2.0", strict=True)
    with pytest.raises(ConfigError, match="needs a name"):
        license_of("other", strict=True)
    assert license_of("other", name="acme", strict=True).name == "acme"


def test_texts_and_names() -> None:
    assert md("a *b*\n| c") == r"a \*b\* \| c"
    assert (md("1. x"), md("- x")) == (r"1\. x", r"\- x")
    assert code("a`b") == "`` a`b ``"
    assert public_name("/a/b/c.jsonl") == public_name("../b/c.jsonl") == public_name(r"C:\b\c.jsonl") == "c.jsonl"
    assert public_name("acme/pairs:train") == "acme/pairs:train"
    assert public_name("held-out comparisons of /a/b/c.jsonl") == "held-out comparisons of c.jsonl"
    assert public_name("held-out comparisons of acme/pairs") == "held-out comparisons of acme/pairs"
    assert public_name("s3://bucket/a.jsonl") == "s3://bucket/a.jsonl"
    assert public_text("see /tmp/a/b.json, ~/c/d or https://x.org/a/b and and/or") == (
        "see b.json, d or https://x.org/a/b and and/or"
    )
    assert [hub_id(s) for s in ("acme/pairs@en:train", "pairs", "a/b/c", "a/b.jsonl", "/a/b")] == [
        "acme/pairs",
        *[None] * 4,
    ]
