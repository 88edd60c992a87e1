"""The completions and solutions whose labels the model gets wrong by most, to be read."""

from __future__ import annotations

from rmray.evaluation.report import words
from rmray.evaluation.report.blocks import LabelError, LabelErrors, Section
from rmray.evaluation.report.read import View, clean_text, finite
from rmray.evaluation.report.sections.errors import MAX_PAIRS, NO_TEXT, PREVIEW, PROMPT_PREVIEW, passage

LABEL_WORDS = {-1.0: "wrong", 0.0: "neutral", 1.0: "right"}


def label_errors(model: View) -> Section:
    worst = model.parts("worst")[:MAX_PAIRS]
    errors = [_error(number, error) for number, error in enumerate(worst, 1)]
    return Section(
        "errors",
        "The worst errors",
        "Read them: is the model wrong, or is the label? Many of one kind are what a policy would exploit first.",
        (LabelErrors(errors),) if errors else (),
        empty="No probability lies on the wrong side of 0.5.",
    )


def _error(number: int, error: View) -> LabelError:
    facts = [f"row {error.text('row_id', most=80)}"] if error.text("row_id") else []
    facts += [f"source {error.text('source', most=60)}"] if error.text("source") else []
    facts += ["texts are cut"] if error.flag("cut") else []
    steps = _steps(error)
    if error.has("steps"):
        title = f"{number}. First error {_step(error.num('first_error'))}, called {_step(error.num('called_error'))}"
        text = "\n".join(text for text, _ in steps)
    else:
        label = "right" if error.flag("label") else "wrong"
        title = f"{number}. Labelled {label}, probability {words.share(error.num('prob'))}"
        text = error.passage("completion", NO_TEXT)
    return LabelError(
        title=title,
        facts=facts,
        prompt=passage(error.passage("prompt", NO_TEXT), [], _tint, PROMPT_PREVIEW),
        completion=passage(text or NO_TEXT, steps, _tint, PREVIEW),
        tinted=bool(steps),
    )


def _steps(error: View) -> list[tuple[str, float | None]]:
    """Each step with its number and label before it, and its probability."""
    found = []
    for k, entry in enumerate(error.values("steps")):
        if isinstance(entry, list | tuple) and len(entry) == 3:
            label = LABEL_WORDS.get(finite(entry[1]) or 0.0, "unknown")
            found.append((f"{k}. ({label}) {clean_text(entry[0])}\n", finite(entry[2])))
    return found


def _step(number: float | None) -> str:
    return "not told" if number is None else "nowhere" if number < 0 else f"in step {int(number)}"


def _tint(prob: float | None) -> int:
    """Away from 0.5: orange below, blue above."""
    return 0 if prob is None else round(6 * (min(max(prob, 0.0), 1.0) - 0.5))
