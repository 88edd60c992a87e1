"""The figure that the page is about beside what needs no model, where probabilities lie, and what they are worth."""

from __future__ import annotations

from itertools import pairwise

from rmray.evaluation.labelled.figures import CHANCE
from rmray.evaluation.report import words
from rmray.evaluation.report.blocks import Block, Chart, Headline, Row, Section, Table, Text
from rmray.evaluation.report.charts import curves, shapes
from rmray.evaluation.report.charts.rows import BASELINE, Dot, interval_rows
from rmray.evaluation.report.read import View

LEGEND = "AUC is the chance that a right one scores above a wrong one: 0.5 is chance, 1 tells all apart."


def is_process(model: View) -> bool:
    return model.text("records") == "process"


def noun(model: View) -> str:
    """What has a probability."""
    return "step" if is_process(model) else "completion"


def headline(model: View) -> Section:
    """F1 of the first error where there is one, else AUC."""
    has_f1 = model.num("first_error_f1") is not None
    key = "first_error_f1" if has_f1 else "step_auc" if is_process(model) else "auc"
    name = "F1 of the first error" if has_f1 else "AUC"
    block = Headline(
        value=words.share(model.num(key)),
        interval=words.interval(model, key),
        name=name,
        sentence=f"{words.with_interval(model, key)} on {_counts(model)}.",
        legend=LEGEND,
        chart=_chart(model),
        figures=_process_figures(model) if is_process(model) else _outcome_figures(model),
    )
    look_for = (
        f"How well right {noun(model)}s are told from wrong ones, with 95% intervals over prompts; it should stand "
        "clear of what needs no model."
    )
    return Section("headline", name, look_for, (block,))


def _counts(model: View) -> str:
    of = f"of {words.count(model.count('prompts'), 'prompt')}"
    if not is_process(model):
        return (
            f"{words.count(model.count('examples'), 'completion')} {of}, {words.count(model.count('positives'))} right"
        )
    steps, solutions = words.count(model.count("steps"), "step"), words.count(model.count("solutions"), "solution")
    return f"{steps} of {solutions} {of}"


def baselines(model: View) -> View:
    """They stand beside an outcome's figures, and under a key of their own in those of a process."""
    return model.part("baselines") if is_process(model) else model


def _chart(model: View) -> Chart | None:
    own, rivals = "step_auc" if is_process(model) else "auc", baselines(model)
    named = [
        ("this model", model, own, ""),
        ("bag of words", rivals, "bag_of_words_auc", BASELINE),
        ("length-only rule", rivals, "length_rule_auc", BASELINE),
    ]
    dots = [
        Dot(name, value, view.num(f"{key}_low"), view.num(f"{key}_high"), group=group or "subject")
        for name, view, key, group in named
        if (value := view.num(key)) is not None
    ]
    if model.num(own) is None:
        return None
    dots.append(Dot("chance", CHANCE, group=BASELINE, detail="a coin"))
    said = "; ".join(f"{dot.name} {words.share(dot.value)}" for dot in dots)
    spec = interval_rows(dots, title="AUC", reference=CHANCE, labels=True)
    return Chart("auc", f"AUC of {noun(model)}s beside what needs no model", spec, f"Dots with 95% intervals. {said}.")


def _outcome_figures(model: View) -> list[tuple[str, str, str]]:
    return [
        _with_interval("Accuracy", model, "accuracy", "at a probability of 0.5"),
        ("Majority", words.share(model.num("majority_accuracy")), "accuracy of always the more frequent label"),
        ("ECE", words.figure(model.num("ece")), "calibration error; 0 is calibrated"),
        ("Brier", words.figure(model.num("brier")), "0.25 is a coin's; lower is better"),
        *_rival_figures(model),
    ]


def _process_figures(model: View) -> list[tuple[str, str, str]]:
    return [
        ("Accuracy, error", words.share(model.num("error_accuracy")),
         f"first wrong step named, of {words.count(model.count('error_solutions'), 'solution')}"),
        ("Accuracy, right", words.share(model.num("right_accuracy")),
         f"no step named, of {words.count(model.count('right_solutions'), 'solution')}"),
        _with_interval("Step accuracy", model, "step_accuracy", "wrong, neutral or right"),
        ("Majority", words.share(model.num("majority_accuracy")), "accuracy of always the most frequent label"),
        _with_interval("Step AUC", model, "step_auc", "right steps against wrong ones"),
        ("Two-way accuracy", words.share(model.num("two_way_accuracy")), "wrong and right steps, at 0.5"),
        *((f"Recall, {name}", words.share(model.num(f"{name}_recall")),
           f"of {words.count(model.count(f'{name}_steps'), 'step')}") for name in ("wrong", "neutral", "right")),
        *_rival_figures(model),
    ]  # fmt: skip


def _rival_figures(model: View) -> list[tuple[str, str, str]]:
    rivals, fitted = baselines(model), model.part("bag_of_words").count("fitted_texts")
    taught = f"AUC; fitted on {words.count(fitted, 'training text')}" if fitted else "not fitted"
    return [
        _with_interval("Length-only rule", rivals, "length_rule_auc", "AUC of “longer is right”"),
        _with_interval("Bag of words", rivals, "bag_of_words_auc", taught),
    ]


def _with_interval(name: str, view: View, key: str, meaning: str) -> tuple[str, str, str]:
    return name, words.share(view.num(key)), f"{words.interval(view, key)} {meaning}".strip()


def probabilities(model: View) -> Section:
    look_for = "The two outlines overlap less the better right and wrong are told apart."
    part, what = model.part("probabilities"), f"{noun(model)}s"
    edges, right, wrong = part.nums("edges"), part.nums("right"), part.nums("wrong")
    title = f"Probabilities of {what}"
    if not sum(right) + sum(wrong) or any(len(side) != len(edges) - 1 for side in (right, wrong)):
        return Section("probabilities", title, look_for, empty=f"No {noun(model)} is labelled right or wrong.")
    chart = Chart(
        "probabilities",
        f"Probability of being right, of right and wrong {what}",
        shapes.two_distributions(edges, right, wrong, names=("right", "wrong"), title="probability", of=what),
        f"Histograms of probabilities from 0 to 1 of {words.count(sum(right))} right and {words.count(sum(wrong))} "
        f"wrong {what}; the table has the counts.",
    )
    rows = [
        [words.span(low, high), words.count(r), words.count(w)]
        for (low, high), r, w in zip(pairwise(edges), right, wrong, strict=True)
    ]
    table = Table("Probabilities by bin", ("probability", "right", "wrong"), rows, "lrr", folded=True)
    return Section("probabilities", title, look_for, (chart, table))


def calibration(model: View) -> Section:
    look_for = (
        "On the dashed line, a probability of 80% comes true 80% of the time; below it, the model is overconfident."
    )
    bins = [b for b in model.parts("reliability") if b.count("count")]
    if len(bins) < 2:
        empty = "There are no probabilities in two bins, so there is no curve to draw."
        return Section("calibration", "Calibration", look_for, empty=empty)
    dots = [
        {"bin": words.span(b.num("low"), b.num("high")), "count": b.count("count"),
         "confidence": b.num("mean_confidence"), "won": b.num("win_rate")}
        for b in bins
    ]  # fmt: skip
    said = ", ".join(f"{words.share(b.num('mean_confidence'))}: {words.share(b.num('win_rate'))}" for b in bins)
    what = f"{noun(model)}s"
    chart = Chart(
        "reliability", "Reliability", curves.reliability(dots, of=what), f"Share that was right by probability: {said}."
    )
    rows = [
        [words.span(b.num("low"), b.num("high")), words.count(b.count("count")),
         words.share(b.num("mean_confidence")), words.share(b.num("win_rate"))]
        for b in bins
    ]  # fmt: skip
    table = Table(
        "Reliability by bin", ("probability", what, "mean probability", "were right"), rows, "lrrr", folded=True
    )
    return Section("calibration", "Calibration", look_for, (Row((chart,)), table))


def aggregates(model: View) -> Section:
    """What to make one score of: mean, smallest or product."""
    whole = "solutions" if is_process(model) else "completions"
    look_for = (
        f"Which one number tells right {whole} from wrong ones best; where intervals overlap, it cannot be told here."
    )
    part = model.part("aggregates")
    named = [(name, part.part(name)) for name in ("mean", "min", "product")]
    dots = [
        Dot(name, value, view.num("auc_low"), view.num("auc_high"))
        for name, view in named
        if (value := view.num("auc")) is not None
    ]
    blocks: list[Block] = []
    if dots:
        said = "; ".join(f"{dot.name} {words.share(dot.value)}" for dot in dots)
        spec = interval_rows(dots, title="AUC", reference=CHANCE, labels=True)
        blocks = [
            Text(f"Each of whole {whole}; a solution is right where no step is wrong." if is_process(model) else
                 f"Each of whole {whole}, over the probabilities of their tokens."),
            Chart("aggregates", f"AUC of whole {whole} by aggregate", spec, f"Dots with 95% intervals. {said}."),
        ]  # fmt: skip
    empty = f"All {whole} are of one kind: there is nothing to tell apart."
    return Section("aggregates", "Mean, smallest and product", look_for, blocks, empty=empty)
