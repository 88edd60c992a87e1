"""Several models on the same pairs, and this evaluation beside earlier ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rmray.evaluation.report import words
from rmray.evaluation.report.blocks import Block, Chart, Section, Table, Text
from rmray.evaluation.report.charts.rows import Dot, interval_rows
from rmray.evaluation.report.read import View, short, short_names

HEAD = ("accuracy", "95% interval", "margin", "ECE", "Brier", "ties", "temperature", "pairs", "prompts")
MAX_EARLIER = 30  # of which the newest are shown


def comparison(evaluation: View, previous: Sequence[View]) -> Section:
    blocks = [*_side_by_side(evaluation), *_earlier(evaluation, previous)]
    return Section(
        "comparison",
        "Comparison",
        "A difference counts when its interval leaves out 0; the same pairs are asked of both models.",
        blocks,
        empty="One model was evaluated, and no earlier evaluation was given: there is nothing to compare.",
    )


def _side_by_side(evaluation: View) -> Iterator[Block]:
    models = evaluation.parts("models")
    if len(models) < 2:
        return
    names = short_names([model.text("model_name", "(no name)") for model in models], 48)
    dots = [_dot(name, model) for name, model in zip(names, models, strict=True) if model.num("accuracy") is not None]
    if dots:
        yield Chart("models", "Accuracy by model", interval_rows(dots, title="accuracy", labels=len(dots) < 9),
                    _alt(dots))  # fmt: skip
    rows = [[name, *_figures(model), words.with_interval(model, "length_rule_accuracy").split(" [")[0],
             words.share(model.part("surface").num("accuracy"))]
            for name, model in zip(names, models, strict=True)]  # fmt: skip
    head = ("model", *HEAD, "length-only rule", "surface baseline")
    yield Table("Headline figures of all models", head, rows, "w" + "r" * (len(head) - 1))
    yield from _differences(evaluation.parts("comparisons"))


def _differences(comparisons: Sequence[View]) -> Iterator[Block]:
    if not comparisons:
        return
    firsts = {c.text("first") for c in comparisons}
    names = short_names([f"{c.text('first', most=32)} − {c.text('second', most=32)}" for c in comparisons], 70)
    against = short_names([c.text("second") for c in comparisons], 48) if len(firsts) == 1 else names
    dots = [
        Dot(
            name, value, c.num("difference_low"), c.num("difference_high"), detail=words.count(c.count("pairs"), "pair")
        )
        for name, c in zip(against, comparisons, strict=True)
        if (value := c.num("difference")) is not None
    ]
    if dots:
        spec = interval_rows(dots, title="difference of accuracy", reference=0.0, least_span=0.04)
        title = f"Accuracy of {short(min(firsts), 40)} minus that of" if len(firsts) == 1 else "Differences of accuracy"
        yield Chart("differences", title, spec, _alt(dots))
    rows = [
        [name, words.signed_share(c.num("difference")), words.interval(c, "difference", "signed_share"), _verdict(c),
         words.count(c.count("pairs")), words.count(c.count("prompts")), words.percent(c.num("same_verdict")),
         words.share(c.num("kendall")), words.share(c.num("spearman")), words.count(c.count("completions"))]
        for name, c in zip(names, comparisons, strict=True)
    ]  # fmt: skip
    head = ("first − second", "difference", "95% interval", "reads as", "pairs", "prompts", "same verdict",
            "Kendall's tau-b, within prompts", "Spearman's rho, over all", "completions")  # fmt: skip
    note = (
        "Same verdict: pairs that both judge alike. Tau: agreement on order within prompts; rho: over all completions, "
        "where the levels of whole prompts count too. 1 is the same order."
    )
    yield Table("Paired differences and rank agreement", head, rows, "wrrlrrrrrr", note=note)


def _verdict(c: View) -> str:
    low, high = c.num("difference_low"), c.num("difference_high")
    if low is None or high is None:
        return "no interval"
    return "first is better" if low > 0 else "second is better" if high < 0 else "no clear difference"


def _earlier(evaluation: View, previous: Sequence[View]) -> Iterator[Block]:
    given, previous = len(previous), [e for e in previous if not e.parts("models")[0].text("records")]
    if given > len(previous):
        yield Text(f"{words.count(given - len(previous), 'earlier evaluation')} of labelled records: not shown.")
    if not previous:
        return
    shown = sorted(previous, key=lambda e: e.text("created"))[-MAX_EARLIER:]
    runs = [(e, e.parts("models")[0]) for e in (*shown, evaluation)]
    same = len({model.text("model_name") for _, model in runs}) == 1
    labels = [f"{e.text('created')[:10]} {'' if same else m.text('model_name', most=32)}".strip() for e, m in runs]
    names = short_names([*labels[:-1], f"this: {labels[-1]}"], 56)
    if len(previous) > len(shown):
        yield Text(f"{len(previous)} earlier evaluations were given; the newest {len(shown)} are shown.")
    if any(
        (e.texts("data"), m.count("pairs")) != (evaluation.texts("data"), runs[-1][1].count("pairs")) for e, m in runs
    ):
        yield Text("Not all of these are of the same pairs: read the differences with care.")
    dots = [
        _dot(name, model) for name, (_, model) in zip(names, runs, strict=True) if model.num("accuracy") is not None
    ]
    if dots:
        spec = interval_rows(dots, title="accuracy", labels=len(dots) < 9)
        yield Chart("earlier", "Accuracy, earlier evaluations first", spec, _alt(dots))
    rows = [
        [name, short(", ".join(e.texts("data")), 48), *_figures(model)]
        for name, (e, model) in zip(names, runs, strict=True)
    ]
    yield Table("Earlier evaluations", ("evaluation", "data", *HEAD), rows, "ww" + "r" * len(HEAD))


def _figures(model: View) -> list[str]:
    return [
        words.share(model.num("accuracy")),
        words.interval(model, "accuracy") or words.NONE,
        words.figure(model.num("margin")),
        words.figure(model.num("ece")),
        words.figure(model.num("brier")),
        words.count(model.count("ties")),
        words.figure(model.num("temperature")),
        words.count(model.count("pairs")),
        words.count(model.count("prompts")),
    ]


def _dot(name: str, model: View) -> Dot:
    low, high = model.num("accuracy_low"), model.num("accuracy_high")
    return Dot(name, model.num("accuracy") or 0.0, low, high, detail=words.count(model.count("pairs"), "pair"))


def _alt(dots: Sequence[Dot]) -> str:
    said = [f"{dot.name} {words.figure(dot.value)}" for dot in dots[:12]]
    return (
        f"Dots with 95% intervals: {'; '.join(said)}{' and more' if len(dots) > 12 else ''}. The table has all figures."
    )
