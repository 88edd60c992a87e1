"""The records that cross rmray's borders, frozen and checked once, here; inside nobody checks again.

Read by `data` (rows become records), `evaluation` (records are scored), `serving` and `client` (requests and results).
K is the number of completions of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import Any

from rmray.errors import RequestError, RowError

CHARS_PER_TOKEN = 3
"""For a first guess of a text's tokens, on the high side of what tokenizers do."""
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Text already tokenised. Never empty; ids are non-negative (the vocabulary is checked by the renderer)."""

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in self.ids):
            raise RowError("bad_token_ids", "token ids must be non-negative integers")


@dataclass(frozen=True, slots=True)
class Steps:
    """A completion given step by step, for process models. One without steps, or with a blank one, cannot be scored."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in self.texts):
            raise RowError("bad_type", "steps must be texts")

    def check(self) -> None:
        """Raise RowError `blank_completion` where there is no step, or a blank one."""
        if not self.texts:
            raise RowError("blank_completion", "the solution has no step")
        if not all(text.strip() for text in self.texts):
            raise RowError("blank_completion", "a step is blank")


Messages = tuple[Mapping[str, Any], ...]
Content = str | Messages | TokenIds | Steps
"""A prompt or a completion: plain text, chat messages, or token ids; a completion may be steps too."""


def check_messages(messages: Sequence[Mapping[str, Any]], *, name: str, starts: bool) -> Messages:
    """Chat messages as a tuple, or RowError.

    starts: the messages open a conversation, so that the assistant must not speak first.
    """
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise RowError("bad_message", f"`{name}` has a message without a role", why=f"message: {message!r:.120}")
        if message["role"] not in ROLES:
            raise RowError(
                "unknown_role", f"`{name}` has the unknown role {message['role']!r}", why=f"known: {', '.join(ROLES)}"
            )
        if not isinstance(message.get("content"), str | list | type(None)):
            raise RowError("bad_message", f"`{name}` has a message whose content is neither text nor a list")
        if message.get("content") is None and not message.get("tool_calls"):
            raise RowError("bad_message", f"`{name}` has a message with neither content nor tool calls")
    if starts and messages and messages[0]["role"] == "assistant":
        raise RowError("assistant_first", f"`{name}` starts with the assistant")
    return tuple(messages)


def is_blank(content: Content) -> bool:
    """True where there is nothing to score: no ids, no messages with content, or white space alone."""
    if isinstance(content, TokenIds):
        return not content.ids
    if isinstance(content, str):
        return not content.strip()
    if isinstance(content, Steps):
        return not any(text.strip() for text in content.texts)
    return not any(m.get("tool_calls") or ((m.get("content") or "") not in ("", []) and _text(m)) for m in content)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content.strip()
    return "".join(str(part.get("text", part)) for part in content or ()).strip()


def plain_text(content: Content) -> str:
    """The visible text, message after message, a step a line; of token ids none."""
    if isinstance(content, TokenIds):
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Steps):
        return "\n".join(content.texts)
    return "\n".join(filter(None, (_text(m) for m in content)))


def num_chars(content: Content) -> int:
    """Length of the visible text in characters (of token ids: their number); the length-only rule compares these."""
    if isinstance(content, TokenIds):
        return len(content.ids)
    if isinstance(content, str):
        return len(content)
    return len(plain_text(content))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """K >= 2 completions of one prompt in an order of preference.

    ranks: K numbers, 0 is best; equal ranks are ties. ratings: the K scores the data gave, if it did.
    margin: the row's own target margin (K = 2), in score units.
    """

    prompt: Content
    completions: tuple[Content, ...]
    ranks: tuple[int, ...]
    ratings: tuple[float, ...] | None = None
    margin: float | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    source: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if len(self.completions) < 2:
            raise RowError("too_few_completions", "a comparison needs at least two completions")
        if len(self.ranks) != len(self.completions):
            raise RowError("count_mismatch", f"{len(self.completions)} completions but {len(self.ranks)} ranks")
        if self.ratings is not None:
            if len(self.ratings) != len(self.completions):
                raise RowError("count_mismatch", f"{len(self.completions)} completions but {len(self.ratings)} scores")
            if not all(math.isfinite(r) for r in self.ratings):
                raise RowError("bad_number", "a score is NaN or infinite")
        if self.margin is not None and not math.isfinite(self.margin):
            raise RowError("bad_number", "`margin` is NaN or infinite")
        for k, completion in enumerate(self.completions):
            if is_blank(completion):
                raise RowError("blank_completion", f"completion {k} is blank")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeExample:
    """One completion and whether its outcome is right."""

    prompt: Content
    completion: Content
    label: bool
    tools: tuple[Mapping[str, Any], ...] | None = None
    source: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.label, bool):
            raise RowError("bad_label", f"`label` must be true or false, not {self.label!r}")
        if is_blank(self.completion):
            raise RowError("blank_completion", "the completion is blank")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExample:
    """A solution in steps, each labelled -1 (wrong), 0 (neutral) or +1 (right)."""

    prompt: Content
    steps: Steps
    labels: tuple[int, ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    source: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        self.steps.check()
        if len(self.steps.texts) != len(self.labels):
            raise RowError("count_mismatch", f"{len(self.steps.texts)} steps but {len(self.labels)} labels")
        if any(isinstance(x, bool) or x not in (-1, 0, 1) for x in self.labels):
            raise RowError("bad_label", "step labels must be -1, 0 or 1")


Record = Comparison | OutcomeExample | ProcessExample


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One prompt with the K completions to score; they share one forward of the prompt.

    finished: whether each completion ended by itself; one that was cut off gets what the bundle's policy names.
    tokenizer_hash: needed with token ids, to show that they are of the bundle's tokenizer.
    """

    prompt: Content
    completions: tuple[Content, ...]
    finished: tuple[bool, ...] = ()
    tokenizer_hash: str | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    truncate: bool = False
    id: str | None = None

    def __post_init__(self) -> None:
        if not self.finished:
            object.__setattr__(self, "finished", (True,) * len(self.completions))
        if len(self.finished) != len(self.completions):
            raise RowError("count_mismatch", f"{len(self.completions)} completions but {len(self.finished)} `finished`")
        if isinstance(self.prompt, Steps):
            raise RowError("bad_type", "a prompt has no steps")


def estimated_tokens(request: ScoreRequest) -> int:
    """Tokens that a request may cost, its prompt once, before anybody tokenised it."""
    return sum(map(content_tokens, (request.prompt, *request.completions)))


def content_tokens(content: Content) -> int:
    """A guess from the characters of text, of token ids their number. What is no content counts 0: who encodes it says
    what is wrong."""
    if isinstance(content, TokenIds):
        return len(content.ids)
    try:
        return math.ceil(num_chars(content) / CHARS_PER_TOKEN)
    except (AttributeError, TypeError):
        return 0


def request_of_own_ids(
    prompt: Content,
    completions: tuple[Content, ...],
    tokenizer_hash: str,
    *,
    tools: tuple[Mapping[str, Any], ...] | None = None,
    id: str | None = None,
) -> ScoreRequest:
    """A request whose token ids, if it has any, are taken to be of the scorer's own tokenizer, as in training."""
    has_ids = any(isinstance(content, TokenIds) for content in (prompt, *completions))
    return ScoreRequest(
        prompt=prompt,
        completions=completions,
        tokenizer_hash=tokenizer_hash if has_ids else None,
        tools=tools,
        id=id,
    )


def request_of(record: Record, tokenizer_hash: str, *, id: str | None = None) -> ScoreRequest:
    """The request that scores all completions of a record, in its order."""
    if isinstance(record, Comparison):
        completions = record.completions
    else:
        completions = (record.completion if isinstance(record, OutcomeExample) else record.steps,)
    return request_of_own_ids(record.prompt, completions, tokenizer_hash, tools=record.tools, id=id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """What one completion got.

    raw: the head's scalar. reward: `raw` normalised against the bundle's reference set: (raw - mean) / std.
    quantile: share of the reference set that scores below, in [0, 1]. model_version: content hash of weights and rules.
    reference: hash of the reference set. num_tokens: of prompt and completion; completion_tokens: of the completion
    alone, None where the scorer does not say.

    Of outcome and process models: token_scores: the probability of being right, of each completion token or each step,
    in [0, 1]; prob_mean, prob_min, prob_product: of them. Of process models: step_labels: each step's most likely
    label, -1 wrong, 0 neutral, 1 right, 2 where two are equally likely; first_error: number of the first step that is
    most likely wrong, from 0; -1 where none is. Of ensembles: member_scores: each member's reward; disagreement: their
    population standard deviation. None where the model is of another kind.
    """

    raw: float
    reward: float
    quantile: float
    model_version: str
    reference: str
    num_tokens: int
    completion_tokens: int | None = None
    truncated: bool = False
    token_scores: tuple[float, ...] | None = None
    prob_mean: float | None = None
    prob_min: float | None = None
    prob_product: float | None = None
    first_error: int | None = None
    step_labels: tuple[int, ...] | None = None
    member_scores: tuple[float, ...] | None = None
    disagreement: float | None = None

    # A dataclass with slots looks its fields up one by one and by name, for each record; this takes half the time. An
    # answer by handle pickles one record a completion.
    def __getstate__(self) -> tuple[Any, ...]:
        return _result_values(self)

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        if len(values) != _NUM_RESULT_FIELDS:
            values = _values_of_another_version(values)
        for put, value in zip(_PUT_RESULT_VALUES, values, strict=True):
            put(self, value)


def _values_of_another_version(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A client and a replica need not be of one version of rmray: new fields stand behind the old ones and have
    defaults, so that those that the other side lacks get theirs, and those that this one lacks are left out."""
    fewest = _NUM_RESULT_FIELDS - len(_RESULT_DEFAULTS)
    if len(values) < fewest:
        raise RequestError(
            "version_mismatch",
            f"a result came with {len(values)} fields, and this version of rmray knows {fewest} that each has",
            next_step="bring the client and the cluster to one version of rmray",
        )
    return (*values[:_NUM_RESULT_FIELDS], *_RESULT_DEFAULTS[len(values) - fewest :])


_RESULT_FIELDS = tuple(field.name for field in fields(ScoreResult))
_NUM_RESULT_FIELDS = len(_RESULT_FIELDS)
_RESULT_DEFAULTS = tuple(field.default for field in fields(ScoreResult) if field.default is not MISSING)
_result_values: Callable[[ScoreResult], tuple[Any, ...]] = attrgetter(*_RESULT_FIELDS)
_PUT_RESULT_VALUES = tuple(getattr(ScoreResult, name).__set__ for name in _RESULT_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFailure:
    """Why one completion has no score. code as in `RequestError`; never a default number.

    retry_after_s: where asking again later may help, seconds to wait first.
    """

    code: str
    message: str
    retry_after_s: float | None = None


ItemResult = ScoreResult | ScoreFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResponse:
    """The answer to one ScoreRequest: K results in the order of its completions."""

    results: tuple[ItemResult, ...]
    id: str | None = None
