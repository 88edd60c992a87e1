"""The card's evaluation: each figure with its interval, beside the rules a reward model must beat. Called by the card.

Everything comes from evaluation.json, where a figure may be null: then a dash stands in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmray.models.bundle.card.facts import CardFacts
from rmray.models.bundle.card.labelled import AUC_LEGEND, RESULTS, labelled_tables, of_what
from rmray.models.bundle.card.markdown import (
    code,
    count,
    finite,
    general,
    interval,
    md,
    number,
    public_name,
    table,
)

LEGEND = "On human preferences 0.5 is chance, 0.65 to 0.75 good and 0.75 to 0.85 excellent."
FIRST_PICTURES = ("accuracy", "auc", "reliability", "length splits")
INTERVALS = "Intervals are 95%, by bootstrap over prompts."


def evaluation_section(model: Mapping[str, Any] | None, facts: CardFacts, *, records: str) -> list[str]:
    """What was measured, or that nothing was. records: what such a model is measured on."""
    lines = ["## Evaluation", ""]
    if model is None:
        return [
            *lines,
            f"No evaluation stands on this card: how good the model is, it cannot say. Measure it on {records} of your "
            "own before you use it (`rmray evaluate`).",
            "",
            *_pictures(facts),
        ]
    evaluation = facts.evaluation or {}
    data = ", ".join(code(public_name(str(name))) for name in evaluation.get("data") or ())
    if model.get("records") in RESULTS:
        where = f"On {data or 'held-out records'}: {of_what(model)}. {INTERVALS} {AUC_LEGEND}"
        return [*lines, where, "", *labelled_tables(model), *_benchmarks(model), *_pictures(facts)]
    lines += [
        f"On {data or 'held-out comparisons'}: {count(model.get('pairs'))} pairs of {count(model.get('prompts'))} "
        f"prompts. {INTERVALS} {LEGEND}",
        "",
        *_accuracy(model),
        *_figures(model),
        *_length(model),
        *_benchmarks(model),
        *_perturbations(model),
        *_best_of_n(model),
        *_pictures(facts),
    ]
    return lines


def _accuracy(model: Mapping[str, Any]) -> list[str]:
    surface = model.get("surface") or {}
    fitted = f" (fitted on {md(surface['fitted_on'])})" if surface.get("fitted_on") else ""
    return table(
        ["Who judges the pairs", "Accuracy", "95% interval"],
        [
            ["**This model**", f"**{number(model.get('accuracy'))}**", interval(model, "accuracy")],
            [
                "The longer answer wins",
                number(model.get("length_rule_accuracy")),
                interval(model, "length_rule"),
            ],
            [f"Surface features alone{fitted}", number(surface.get("accuracy")), interval(surface, "accuracy")],
        ],
    )


def _figures(model: Mapping[str, Any]) -> list[str]:
    failed = sum(int(finite(n) or 0) for n in (model.get("failed") or {}).values())
    quarantined = sum(int(finite(n) or 0) for n in (model.get("quarantined") or {}).values())
    rows = [
        ["Ties (counted as lost)", count(model.get("ties"))],
        ["Mean gap, chosen minus rejected (raw score)", general(model.get("margin"))],
        ["Mean raw score, chosen", general(model.get("mean_chosen"))],
        ["Mean raw score, rejected", general(model.get("mean_rejected"))],
        ["Expected calibration error, 10 bins", number(model.get("ece"))],
        ["Brier score", number(model.get("brier"))],
        ["Temperature that calibrates best", general(model.get("temperature"))],
        ["Pairs that could not be scored", count(model.get("unscored_pairs"))],
        ["Completions that failed", count(failed)],
        ["Rows in quarantine", count(quarantined)],
    ]
    return table(["Figure", "Value"], [row for row in rows if row[1] != "—"])


def _length(model: Mapping[str, Any]) -> list[str]:
    length = model.get("length") or {}
    rows = []
    for key, name in (("longer", "longer"), ("shorter", "shorter"), ("matched", "within 10% as long")):
        split = length.get(key) or {}
        if finite(split.get("pairs")):
            accuracy = number(split.get("accuracy"))
            rows.append([f"Chosen is {name}", accuracy, interval(split, "accuracy"), count(split["pairs"])])
    rank = finite(length.get("spearman"))
    said = f"Spearman's correlation of reward and length in {md(length.get('unit', 'tokens'))} is {number(rank)}."
    return [
        *(["### Length", ""] if rows or rank is not None else []),
        *([said, ""] if rank is not None else []),
        *(table(["Pairs", "Accuracy", "95% interval", "Count"], rows) if rows else []),
    ]


def _benchmarks(model: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for benchmark in model.get("benchmarks") or ():
        title = md(benchmark.get("title") or benchmark.get("name") or "Benchmark")
        rows = [["**All**", _bold(benchmark.get("score")), interval(benchmark, "score"), count(benchmark.get("items"))]]
        for section in benchmark.get("sections") or ():
            name, score = md(section.get("name")), number(section.get("score"))
            rows.append([name, score, interval(section, "score"), count(section.get("items"))])
        metric = [f"Score: {md(benchmark['metric'])}.", ""] if benchmark.get("metric") else []
        notes = [f"- {md(note)}" for note in benchmark.get("notes") or ()]
        head = ["Section", "Score", "95% interval", "Items"]
        lines += [f"#### {title}", "", *metric, *table(head, rows), *notes, *([""] if notes else [])]
    return ["### Benchmarks", "", *lines] if lines else []


def _perturbations(model: Mapping[str, Any]) -> list[str]:
    adversarial = model.get("adversarial") or {}
    rows = []
    for one in adversarial.get("perturbations") or ():
        shift = interval(one, "reward_shift", 2)
        rows.append(
            [
                md(str(one.get("name", "")).replace("_", " ")),
                f"{md(one.get('applied_to', ''))}, must {md(one.get('must', ''))}",
                number(one.get("win_rate")),
                interval(one, "win_rate"),
                number(one.get("reward_shift"), 2) + (f" ({shift})" if shift != "—" else ""),
                count(one.get("pairs")),
            ]
        )
    if not rows:
        return []
    return [
        "### Answers with a flaw or dressed up",
        "",
        "How often an answer that was changed by code scores above the unchanged rival, and by how many reference "
        "standard deviations its reward moves. A flawed answer should win rarely; dress-up should not raise a reward.",
        "",
        *table(["Change", "Changed answer", "Wins", "95% interval", "Shift", "Pairs"], rows),
    ]


def _best_of_n(model: Mapping[str, Any]) -> list[str]:
    best = model.get("best_of_n") or {}
    curve = best.get("curve") or ()
    rows = [
        [
            count(point.get("n")),
            number(point.get("kl"), 2),
            general(point.get("true")),
            interval(point, "true"),
            general(point.get("proxy")),
        ]
        for point in curve
    ]
    if not rows:
        return []
    about = f"{count(best.get('prompts'))} prompts with {count(best.get('samples'))} samples each"
    return [
        "### Best of N",
        "",
        f"{about}: quality of the sample this model picks ({md(best.get('what', 'the scores of the data'))}) and its "
        "own score of it, against the distance from the policy. Where the second rises and the first does not, more "
        "optimisation harms.",
        "",
        *table(["N", "KL", "Quality", "95% interval", "Own score"], rows),
    ]


def _pictures(facts: CardFacts) -> list[str]:
    """A link to the page, the pictures that matter most, and the others folded away."""
    page = "The whole evaluation is one page, [report.html](report.html): download it and open it in a browser."
    shown = {path: f"![{md(_title(path))}]({path})" for path in facts.plots}
    first = [picture for path, picture in shown.items() if _title(path) in FIRST_PICTURES]
    others = [picture for picture in shown.values() if picture not in first]
    lines = [*([page] if facts.report else []), *first]
    if others:
        lines += ["<details><summary>More pictures</summary>", *others, "</details>"]
    return [part for line in lines for part in (line, "")]


def _title(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0].replace("_", " ").replace("-", " ")


def _bold(value: Any) -> str:
    return f"**{number(value)}**"
