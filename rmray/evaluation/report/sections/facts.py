"""What was left out, and what the figures are of: rows, files, settings, versions, hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from rmray.evaluation.report import words
from rmray.evaluation.report.blocks import Block, Facts, Notes, Section, Table
from rmray.evaluation.report.read import View, clean_text, short
from rmray.evaluation.report.run_facts import RunFacts

MAX_VERBATIM, MAX_EXAMPLE = 20_000, 300  # characters


def left_out(model: View, run: RunFacts | None) -> Section:
    examples = model.named_texts("quarantine_examples")
    rows = [
        [where, short(code), words.count(n), _example(examples, code)]
        for where, key in (("evaluation rows", "quarantined"), ("completions without a score", "failed"))
        for code, n in model.counts(key).items()
    ]
    ledger = View({"codes": dict(run.quarantine)} if run else {}).counts("codes")
    rows += [["training rows", short(code), words.count(n), ""] for code, n in ledger.items()]
    table = Table("What was left out", ("what", "reason", "count", "example"), rows, "lwrw")
    return Section(
        "quarantine",
        "Left out",
        "Rows that could not be read and completions that could not be scored are in no figure of this page.",
        (table,) if rows else (),
        empty="Nothing was left out: every row was read and every completion scored.",
    )


def _example(examples: Mapping[str, str], code: str) -> str:
    return short(examples.get(code, ""), MAX_EXAMPLE)


def run_facts(evaluation: View, model: View, run: RunFacts | None) -> Section:
    blocks: list[Block] = [Facts("This evaluation", _evaluation_facts(evaluation, model))]
    if run is not None:
        identity = View(run.identity)
        blocks += [Facts(title, facts) for title, facts in _identity_facts(identity) if facts]
        for title, value in (("Settings of the run", run.config), ("Identity of the run", run.identity)):
            if value:
                blocks.append(Facts(title, verbatim=_dump(value)))
        blocks += [Notes([clean_text(note) for note in run.notes])] if run.notes else []
    look_for = "Enough to make these figures again, and to tell whether two pages are of the same thing."
    return Section("facts", "Run facts", look_for, blocks)


def _evaluation_facts(evaluation: View, model: View) -> list[tuple[str, str]]:
    rows, pairs = _labelled_counts(model) if model.text("records") else _compared_counts(model)
    found = [
        ("model", model.text("model_name")),
        ("kind", model.text("kind")),
        ("records", model.text("records")),
        ("version", model.text("model_version")),
        ("data", ", ".join(evaluation.texts("data"))),
        ("rows", rows),
        ("pairs", pairs),
        ("made", evaluation.text("created")),
        ("rmray", evaluation.text("rmray")),
        ("seed", evaluation.text("seed")),
    ]
    return [(name, short(value, 400)) for name, value in found if value]


def _compared_counts(model: View) -> tuple[str, str]:
    """How rows and pairs add up."""
    quarantined = sum(model.counts("quarantined").values())
    rows = (
        f"{words.count(model.count('rows'), 'row')} = {words.count(model.count('comparisons'), 'comparison')} + "
        f"{words.count(quarantined)} quarantined"
    )
    pairs = f"{words.count(model.count('pairs'), 'pair')} scored, {words.count(model.count('unscored_pairs'))} left out"
    if model.count("unordered"):
        pairs += f"; {words.count(model.count('unordered'), 'comparison')} tie throughout and make none"
    return rows, pairs


def _labelled_counts(model: View) -> tuple[str, str]:
    """How rows of labelled records add up; they make no pairs."""
    scored = model.count("solutions") or model.count("examples")
    failed, quarantined = (sum(model.counts(key).values()) for key in ("failed", "quarantined"))
    return (
        f"{words.count(model.count('rows'), 'row')} = {words.count(scored)} scored + {words.count(failed)} without a "
        f"score + {words.count(quarantined)} quarantined",
        "",
    )


def _identity_facts(identity: View) -> list[tuple[str, list[tuple[str, str]]]]:
    model, code, settings = identity.part("model"), identity.part("code"), identity.part("data")
    base = [
        ("base model", model.text("base")),
        ("hash of the base", model.text("hash")),
        ("revision", model.text("revision")),
        ("prepared set", settings.text("prepared_set")),
        ("seed", identity.text("seed")),
        ("code", code.text("commit") + (" with uncommitted changes" if code.flag("dirty") else "")),
    ]
    files = [
        (f"{file.text('split')}: {file.text('path', most=120)}",
         f"{words.count(file.count('num_rows'), 'row')}, sha256 {file.text('sha256')[:16]}")
        for file in settings.parts("files")[:50]
    ]  # fmt: skip
    versions = identity.named_texts("versions").items()
    return [
        ("The run", [(name, short(value, 200)) for name, value in base if value]),
        ("Files it was trained on", files),
        ("Versions", [(short(name), short(value, 120)) for name, value in versions if value]),
    ]


def _dump(value: Mapping[str, Any]) -> str:
    try:
        text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100)
    except (yaml.YAMLError, UnicodeError):
        text = "\n".join(f"{key}: {inner}" for key, inner in value.items())
    text = clean_text(text)
    return text if len(text) <= MAX_VERBATIM else f"{text[:MAX_VERBATIM]}\n… cut"
