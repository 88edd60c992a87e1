"""Of an ensemble: its members one by one, and whether they disagree where it is wrong."""

from __future__ import annotations

from rmray.evaluation.report import words
from rmray.evaluation.report.blocks import Block, Chart, Section, Table, Text
from rmray.evaluation.report.charts import rows
from rmray.evaluation.report.read import View


def disagreement(model: View) -> list[Section]:
    """The section of an ensemble; none of a model without members."""
    part = model.part("disagreement")
    members = [member for member in part.parts("members") if member.num("accuracy") is not None]
    if not members:
        return []
    look_for = (
        "Accuracy should fall from left to right: where members disagree, rewards deserve less trust. An ensemble that "
        "is no better than its best member pays for nothing but that warning."
    )
    blocks: list[Block] = [Text(_reading(part)), *_accuracies(model, members), *_quartiles(part)]
    return [Section("disagreement", "Members and disagreement", look_for, blocks)]


def _reading(part: View) -> str:
    errors, pairs = part.count("errors"), part.count("pairs")
    lost = f"{words.count(errors)} of {words.count(pairs, 'pair')} are lost"
    if part.num("auroc") is None:
        return f"{lost}, so that disagreement has nothing to tell apart."
    return (
        f"{lost}. The chance that a lost pair shows more disagreement than a won one (AUROC) is "
        f"{words.with_interval(part, 'auroc')}; 0.5 says nothing."
    )


def _accuracies(model: View, members: list[View]) -> list[Block]:
    dots = [rows.Dot("ensemble", model.num("accuracy") or 0.0, model.num("accuracy_low"), model.num("accuracy_high"))]
    for member in members:
        low, high = member.num("accuracy_low"), member.num("accuracy_high")
        name = f"member {member.count('member')}"
        dots.append(rows.Dot(name, member.num("accuracy") or 0.0, low, high, group=rows.BASELINE))
    said = "; ".join(f"{dot.name}: {words.share(dot.value)}" for dot in dots)
    chart = Chart(
        "members",
        "Accuracy of the ensemble and of each member",
        rows.interval_rows(dots, title="accuracy"),
        f"Accuracy with 95% intervals. {said}.",
    )
    table = [
        [f"member {m.count('member')}", words.share(m.num("accuracy")), words.interval(m, "accuracy") or words.NONE,
         words.count(m.count("ties"))]
        for m in members
    ]  # fmt: skip
    return [chart, Table("Members", ("member", "accuracy", "95% interval", "ties"), table, "lrrr", folded=True)]


def _quartiles(part: View) -> list[Block]:
    splits = [split for split in part.parts("quartiles") if split.num("accuracy") is not None]
    if len(splits) < 2:
        return [Text("Members disagree about all pairs alike: there are no parts to compare.")]
    dots = [
        rows.Dot(str(i), s.num("accuracy") or 0.0, s.num("accuracy_low"), s.num("accuracy_high"),
                 detail=words.count(s.count("pairs"), "pair"))
        for i, s in enumerate(splits, 1)
    ]  # fmt: skip
    part_name = "quarter" if len(splits) == 4 else "part"
    said = "; ".join(f"{dot.name}: {words.share(dot.value)}" for dot in dots)
    chart = Chart(
        "disagreement",
        "Accuracy by disagreement",
        rows.interval_columns(dots, title="accuracy", axis_title=f"{part_name} of pairs, least disagreement first"),
        f"Accuracy with 95% intervals. {said}.",
    )
    table = [
        [f"{i}: {words.span(s.num('low'), s.num('high'))}", words.share(s.num("accuracy")),
         words.interval(s, "accuracy") or words.NONE, words.count(s.count("pairs"))]
        for i, s in enumerate(splits, 1)
    ]  # fmt: skip
    note = "Disagreement of a pair: the standard deviation, over members, of the gap between its two rewards."
    head = (f"{part_name}: from, to", "accuracy", "95% interval", "pairs")
    return [chart, Table("Accuracy by disagreement", head, table, "lrrr", folded=True, note=note)]
