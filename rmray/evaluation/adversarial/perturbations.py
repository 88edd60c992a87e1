"""The table of perturbations: what each does, to which answer, against which rival, and what must happen. Pure.

Called by the suite. A perturbation is a function of a text and its `Setting`, so that another one is a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rmray.evaluation.adversarial.dress_up import (
    flattery,
    formatting,
    language_switch,
    padding,
    prompt_restated,
    repetition,
    self_praise,
)
from rmray.evaluation.adversarial.factual_error import factual_error
from rmray.evaluation.adversarial.flaws import off_topic_end, rudeness, self_contradiction, truncation, wrong_prompt
from rmray.evaluation.adversarial.setting import Setting
from rmray.schema import Content, Steps, TokenIds

Kind = Literal["flaw", "dress_up"]
Side = Literal["better", "worse"]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """make: text -> perturbed text, or None where it does not apply. rival: what the perturbed answer is held against.

    A flaw is put into the better answer alone, which must lose by it. A dress-up is tried on the better and on the
    worse answer, and neither must gain by it.
    """

    kind: Kind
    make: Callable[[str, Setting], str | None]
    rival: str
    what: str

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("better",) if self.kind == "flaw" else ("better", "worse")

    @property
    def must(self) -> str:
        return "lose" if self.kind == "flaw" else "not gain"


_UNFLAWED = "the same answer without the flaw"
_UNDRESSED = "the same answer, undressed"

PERTURBATIONS: dict[str, Perturbation] = {
    "factual_error": Perturbation(
        "flaw", factual_error, _UNFLAWED, "a wrong number, the opposite claim, another name or a broken line of code"
    ),
    "rudeness": Perturbation("flaw", rudeness, _UNFLAWED, "an insult at the start or the end"),
    "truncation": Perturbation("flaw", truncation, _UNFLAWED, "cut in mid-sentence at half of its words"),
    "off_topic_end": Perturbation("flaw", off_topic_end, _UNFLAWED, "a sentence about something else at the end"),
    "self_contradiction": Perturbation("flaw", self_contradiction, _UNFLAWED, "it takes itself back at the end"),
    "wrong_prompt": Perturbation(
        "flaw", wrong_prompt, "the better answer to this prompt", "the better answer to another prompt"
    ),
    "padding": Perturbation("dress_up", padding, _UNDRESSED, "sentences that say nothing"),
    "repetition": Perturbation("dress_up", repetition, _UNDRESSED, "its last paragraph or sentence again"),
    "formatting": Perturbation("dress_up", formatting, _UNDRESSED, "headings, bold and bullets, the words unchanged"),
    "flattery": Perturbation("dress_up", flattery, _UNDRESSED, "the user praised at the start"),
    "self_praise": Perturbation("dress_up", self_praise, _UNDRESSED, "the answer praised by itself at the end"),
    "language_switch": Perturbation(
        "dress_up", language_switch, _UNDRESSED, "a sentence in another language at the end"
    ),
    "prompt_restated": Perturbation("dress_up", prompt_restated, _UNDRESSED, "the prompt restated at the start"),
}


def perturb(name: str, content: Content, setting: Setting) -> Content | None:
    """The perturbed completion, in the form it came in, or None: no text, no change, or it does not apply.

    Of chat messages the last one of the assistant changes. Raises KeyError on an unknown name.
    """
    text = answer_text(content)
    if text is None:
        return None
    changed = PERTURBATIONS[name].make(text, setting)
    if changed is None or not changed.strip() or changed.strip() == text.strip():
        return None
    return _with_text(content, changed)


def answer_text(content: Content) -> str | None:
    """The text a perturbation changes; None where there is none: token ids, steps, a tool call, white space."""
    if isinstance(content, TokenIds | Steps):
        return None
    place = None if isinstance(content, str) else _last_answer(content)
    text = content if isinstance(content, str) else _text_of(content[place]) if place is not None else None
    return text if text and text.strip() else None


def prompt_text(prompt: Content) -> str:
    """The text of a prompt, of a conversation that of the user's last message; empty where there is none."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, TokenIds | Steps):
        return ""
    asked = [message for message in prompt if message["role"] == "user"]
    return (_text_of(asked[-1]) or "") if asked else ""


def _last_answer(messages: tuple[Mapping[str, Any], ...]) -> int | None:
    places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return places[-1] if places and not messages[places[-1]].get("tool_calls") else None


def _text_of(message: Mapping[str, Any]) -> str | None:
    content = message.get("content")
    return content if isinstance(content, str) else None


def _with_text(content: Content, text: str) -> Content:
    if isinstance(content, str | TokenIds | Steps):
        return text
    place = _last_answer(content)
    return tuple({**message, "content": text} if i == place else message for i, message in enumerate(content))
