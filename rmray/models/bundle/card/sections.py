"""The card's text beside its figures: data, training, rewards, uses, limits, licence. Called by the card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rmray.models.bundle.card.facts import CardFacts
from rmray.models.bundle.card.kinds import kind_of, taken
from rmray.models.bundle.card.licences import license_of
from rmray.models.bundle.card.markdown import (
    NO_FIGURE,
    code,
    count,
    finite,
    general,
    md,
    number,
    one_line,
    public_name,
    table,
)
from rmray.models.bundle.manifest import BundleManifest

HASH_DIGITS = 12


def training_data(manifest: BundleManifest, facts: CardFacts) -> list[str]:
    """Names, hashes and, where the run's record is known, rows."""
    rows = [
        [
            code(public_name(str(f.get("path")))),
            md(f.get("split", "")),
            count(f.get("num_rows")),
            _hash(f.get("sha256")),
        ]
        for f in _files(facts)
    ]
    head = ["Data", "Split", "Rows", "sha256"]
    if not rows:
        head = ["Data", "sha256"]
        rows = [[code(public_name(name)), _hash(digest)] for name, digest in sorted(manifest.data_hashes.items())]
    if not rows:
        return ["## Training data", "", "Not recorded: the model was imported, or made before data was recorded.", ""]
    held_out = "Rows of the split `eval` were held out." if any(f.get("split") == "eval" for f in _files(facts)) else ""
    return ["## Training data", "", *table(head, rows), *([held_out, ""] if held_out else [])]


def training(manifest: BundleManifest, facts: CardFacts) -> list[str]:
    """Objective, pooling, rules and whatever the run recorded."""
    rules = manifest.render_rules
    rows = [
        ["Base model", code(public_name(manifest.base_model)) if manifest.base_model else NO_FIGURE],
        ["Objective", code(manifest.objective)],
        ["Score read at", code(manifest.pooling)],
        ["Score made by", code(manifest.aggregate) if manifest.aggregate else NO_FIGURE],
        ["Longest prompt and completion", f"{count(rules.get('max_length'))} tokens"],
        ["What is longer", code(rules.get("over_length", ""))],
        ["Reasoning traces", code(rules.get("think", ""))],
        ["Unfinished completions", _unfinished(manifest)],
        ["Weights", code(manifest.dtype)],
        ["Chat template", code(rules["template_hash"]) if rules.get("template_hash") else "none"],
        ["Model version", code(manifest.model_version)] if manifest.model_version else ["Model version", NO_FIGURE],
        ["Written by", md(manifest.created_by)],
        *([code(name), code(value)] for name, value in _settings(facts)),
    ]
    rows = [row for row in rows if row[1] != NO_FIGURE]
    metrics = [
        [code(name), general(value)] for name, value in sorted(manifest.metrics.items()) if finite(value) is not None
    ]
    lines = ["## Training", "", *table(["Setting", "Value"], rows)]
    if metrics:
        lines += ["What the run itself recorded at its end:", "", *table(["Figure", "Value"], metrics)]
    return lines


def rewards(manifest: BundleManifest) -> list[str]:
    """The scale of a reward, and how far it holds."""
    reference, kind = manifest.reference, kind_of(manifest)
    failed = f"; {count(reference.num_failed)} more could not be scored" if reference.num_failed else ""
    low, middle, high = (reference.quantiles[i] for i in (5, 50, 95))
    centred = f"score {'-' if reference.mean >= 0 else '+'} {abs(reference.mean):.6g}"
    return [
        "## What a reward is",
        "",
        f"{kind.scale.format(taken=taken(manifest))} A reward is ({centred}) / {reference.std:.6g}: mean and standard "
        f"deviation over {count(reference.num_scores)} reference completions "
        f"({md(public_name(reference.source))}, {code(reference.hash)}{failed}). Raw scores there are {low:.4g} at the "
        f"5th percentile, {middle:.4g} at the median and {high:.4g} at the 95th.",
        "",
        kind.across,
        "",
    ]


INTENDED = """\
## Intended use

- Ranking several answers to the same prompt: best of N, filtering of samples, preference data.
- The reward of an RL run on prompts like those it was trained on, with a KL penalty and with somebody watching.
- Comparing policies on one set of prompts, beside another judge.

## When not to use it, or any reward model

- **Where an answer can be checked.** Mathematics with a known result, code with tests, formats with a parser: use the \
checker. It is cheaper, it is right, and a policy cannot talk it round.
- **As a judge of truth.** {learnt} It looks nothing up.
- **To rank or judge people**, or to decide anything about them.
- **As the only guard of a long optimisation.** Every reward model is over-optimised in the end: its reward goes on \
rising while quality falls (Gao et al. 2023, arXiv:2210.10760). Keep a KL penalty or a small N, hold a second judge \
back that the policy never sees, read samples, and stop by that judge.
- **On prompts unlike its training data:** other languages, domains, lengths or formats, tools, several turns. Its \
rewards there are numbers without a meaning; measure its accuracy on such {records} first.
- **As an absolute grade.** A reward of 1 says "one standard deviation above the reference", not "good"; a threshold \
has to be fitted on labelled data of your own.
- **As the filter that keeps people safe.** {guard}
"""


def uses(manifest: BundleManifest) -> list[str]:
    """What it is for, and what no reward model is for."""
    kind = kind_of(manifest)
    return [INTENDED.format(learnt=kind.learnt, records=kind.records, guard=kind.guard)]


def limits(manifest: BundleManifest, model: Mapping[str, Any] | None) -> list[str]:
    """What is known to be weak, from the figures and the notes of the evaluation."""
    longest = count(manifest.render_rules.get("max_length"))
    cut = manifest.render_rules.get("over_length") == "truncate_prompt"
    found = [
        f"It reads {longest} tokens of prompt and completion; "
        + ("of longer ones the prompt's beginning is cut away." if cut else "longer ones are refused."),
        *(_limits(model) if model is not None else ["Nothing was measured: its weak points are not known."]),
    ]
    if manifest.reference.num_failed:
        found.append(f"{count(manifest.reference.num_failed)} reference completions could not be scored.")
    notes = [md(note) for note in (model or {}).get("notes") or ()]
    lines = [f"- {sentence}" for sentence in (*found, *notes)]
    return ["## Known limits", "", *lines, ""]


def _limits(model: Mapping[str, Any]) -> Iterator[str]:
    low, rule = finite(model.get("accuracy_low")), finite(model.get("length_rule_accuracy"))
    if low is not None and rule is not None and low <= rule:
        yield (
            f"It is not shown to beat the rule that the longer answer wins ({number(rule)}): its interval begins at "
            f"{number(low)}."
        )
    surface = finite((model.get("surface") or {}).get("accuracy"))
    if low is not None and surface is not None and low <= surface:
        yield f"It is not shown to beat surface features alone ({number(surface)})."
    length = model.get("length") or {}
    rank = finite(length.get("spearman"))
    if rank is not None and abs(rank) >= 0.1:
        kind = "longer" if rank > 0 else "shorter"
        yield f"Its rewards are higher for {kind} answers: Spearman's correlation with length is {number(rank)}."
    longer, shorter = (finite((length.get(key) or {}).get("accuracy")) for key in ("longer", "shorter"))
    if longer is not None and shorter is not None and abs(longer - shorter) >= 0.05:
        yield (
            f"Its accuracy depends on length: {number(longer)} where the chosen answer is the longer one, "
            f"{number(shorter)} where it is the shorter one."
        )
    pairs, lost = finite(model.get("pairs")), finite(model.get("unscored_pairs"))
    if pairs is not None and lost and lost >= 0.05 * (pairs + lost):
        yield f"{count(lost)} of {count(pairs + lost)} pairs could not be scored, and no figure counts them."
    ece = finite(model.get("ece"))
    if ece is not None and ece >= 0.05:
        what = "probabilities are not calibrated" if model.get("records") else "gaps are no probabilities"
        yield f"Its {what}: the expected calibration error is {number(ece)}."


def licence(manifest: BundleManifest, facts: CardFacts) -> list[str]:
    """Which licence was given; that of the base model goes on beside it."""
    given = facts.license or (license_of(manifest.license) if manifest.license else None)
    if given is None:
        text = "None was given: until its maker names one, nobody else may use the model."
    else:
        link = f" (<{one_line(given.link)}>)" if given.link else ""
        text = f"{code(given.shown)}{link}."
    if manifest.base_model:
        text += (
            f" The terms of {code(public_name(manifest.base_model))}, from which its weights derive, hold beside it."
        )
    return ["## Licence", "", text, ""]


FILES = """\
## Files

`rmray.json` holds the model's rules, statistics and the hash of every file of the bundle; `goldens.json` some \
conversations with their exact token ids and scores, which rmray checks whenever it loads the model. Everything else \
is what transformers reads.
"""

ENSEMBLE_FILES = """\
## Files

`rmray.json` holds how the members combine, the statistics of what they combine to and the hash of every file; each \
folder in `members` is a bundle with its own `rmray.json`, goldens, weights and tokenizer.
"""


def _files(facts: CardFacts) -> list[Mapping[str, Any]]:
    return list(((facts.training or {}).get("data") or {}).get("files") or ())


def _settings(facts: CardFacts) -> Iterator[tuple[str, str]]:
    """The run's settings by their dotted names, those that were set to nothing left out."""
    for section, settings in ((facts.training or {}).get("settings") or {}).items():
        for key, value in settings.items():
            if value is not None and value != {}:
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                yield f"{section}.{key}", text


def _unfinished(manifest: BundleManifest) -> str:
    policy, penalty = manifest.unfinished.policy, manifest.unfinished.penalty
    return code(policy) + (f" (reward less {penalty:g})" if policy == "penalty" else "")


def _hash(digest: Any) -> str:
    return code(str(digest)[:HASH_DIGITS]) if digest else NO_FIGURE
