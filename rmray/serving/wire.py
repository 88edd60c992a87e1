"""The JSON of `/v1/rewards`: strict models of what comes in and goes out, and their records. Used by `http`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)

from rmray.config.serve import ServedModel
from rmray.errors import RowError
from rmray.result_json import result_to_json
from rmray.schema import (
    Content,
    Messages,
    ScoreFailure,
    ScoreRequest,
    ScoreResponse,
    Steps,
    TokenIds,
    check_messages,
)

MAX_ITEMS = 1024
MAX_COMPLETIONS = 256
MAX_TIMEOUT_S = 600.0


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("is no valid Unicode: it has half a surrogate pair") from None
    return text


Text = Annotated[StrictStr, AfterValidator(_encodable)]


class Model(BaseModel):
    """An unknown field is an error: a misspelt `finished` must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Message(BaseModel):
    """One chat message. Other keys (tool calls, names) go to the chat template as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)
    role: StrictStr
    content: Text | list[dict[str, Any]] | None = None


def _kind(value: Any) -> str | None:
    """Text, messages, token ids or steps, by what it looks like; a wrong element is then reported at its own place."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        first = value[0] if value else None
        return "steps" if isinstance(first, str) else "token_ids" if isinstance(first, int | float) else "messages"
    return None


TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]
KINDS = ("text", "messages", "token_ids", "steps")
WireContent = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Message], Tag("messages")]
    | Annotated[list[TokenId], Tag("token_ids")]
    | Annotated[list[Text], Tag("steps")],
    Discriminator(
        _kind,
        custom_error_type="content",
        custom_error_message="must be text, a list of messages, of token ids, or of steps",
    ),
]


class Item(Model):
    prompt: WireContent
    """Text, chat messages, or token ids."""
    completions: Annotated[list[WireContent], Field(min_length=1, max_length=MAX_COMPLETIONS)]
    """The completions of the prompt, K at least 1; they share the prompt's forward. For process models a completion may
    be a list of steps."""
    finished: list[StrictBool] | None = None
    """For each completion whether it ended by itself; absent: all did."""
    tokenizer_hash: StrictStr | None = None
    """Needed with token ids: the hash that `/v1/models` gives."""
    tools: list[dict[str, Any]] | None = None
    """Tool descriptions for the chat template."""
    truncate: StrictBool = False
    """Cut the oldest prompt tokens of what is too long, rather than refuse it."""
    id: Annotated[StrictStr, Field(max_length=256)] | None = None
    """Comes back with the result."""

    @model_validator(mode="after")
    def _check(self) -> Item:
        if self.finished is not None and len(self.finished) != len(self.completions):
            raise ValueError(f"{len(self.completions)} completions but {len(self.finished)} `finished`")
        return self


class RewardsRequest(Model):
    model: StrictStr | None = None
    """Name of the served model; may be left out where there is one. NAME@VERSION asks for that version alone."""
    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
    """Prompts with their completions; results come back in this order."""
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] = 60.0
    """Seconds after which what is not scored is answered `deadline`."""


class ErrorDetail(BaseModel):
    code: str
    message: str
    fields: list[dict[str, str]] | None = None
    """Of an invalid request: `field` (its path) and `message` each."""


class ErrorBody(BaseModel):
    error: ErrorDetail


class CompletionResult(BaseModel):
    """A score, or `error`: never both, and never a number in place of an error."""

    reward: float | None = None
    quantile: float | None = None
    raw: float | None = None
    model_version: str | None = None
    reference: str | None = None
    num_tokens: int | None = None
    completion_tokens: int | None = None
    truncated: bool | None = None
    token_scores: list[float] | None = None
    """Of an outcome model the probability of being right at each completion token, of a process model at each step."""
    prob_mean: float | None = None
    prob_min: float | None = None
    prob_product: float | None = None
    first_error: int | None = None
    """Of a process model: number of the first step that is most likely wrong, from 0; -1 where none is."""
    step_labels: list[int] | None = None
    """Of a process model: what each step is called, -1 wrong, 0 neutral, 1 right; 2 where two are equally likely."""
    member_scores: list[float] | None = None
    """Of an ensemble: each member's reward."""
    disagreement: float | None = None
    """Of an ensemble: the standard deviation of its members' rewards."""
    error: ErrorDetail | None = None


class ItemResponse(BaseModel):
    id: str | None = None
    completions: list[CompletionResult]


class RewardsResponse(BaseModel):
    model: str
    results: list[ItemResponse]
    error: ErrorDetail | None = None
    """Where no completion could be scored: the first one's error."""


class CanaryCard(BaseModel):
    model_version: str
    share: float
    """Of the calls for the name that this version answers."""


class ModelCard(BaseModel):
    id: str
    kind: str
    model_version: str
    reference: str
    tokenizer_hash: str
    max_length: int
    canary: CanaryCard | None = None


class ModelList(BaseModel):
    data: list[ModelCard]


class Readiness(BaseModel):
    status: str


def to_request(item: Item) -> ScoreRequest | ScoreFailure:
    """The record of one item, or why its content can't be scored at all (an unknown role, the assistant first)."""
    try:
        return ScoreRequest(
            prompt=_content(item.prompt, "prompt", starts=True),
            completions=tuple(_content(c, f"completions[{k}]", starts=False) for k, c in enumerate(item.completions)),
            finished=tuple(item.finished or ()),
            tokenizer_hash=item.tokenizer_hash,
            tools=tuple(item.tools) if item.tools is not None else None,
            truncate=item.truncate,
            id=item.id,
        )
    except RowError as error:
        return ScoreFailure(code=error.code, message=error.what)


def _content(value: Any, name: str, *, starts: bool) -> Content:
    if isinstance(value, str):
        return value
    if value and isinstance(value[0], int):
        return TokenIds(tuple(value))
    if value and isinstance(value[0], str):
        return Steps(tuple(value))
    messages: Sequence[Mapping[str, Any]] = [m.model_dump(exclude_unset=True) for m in value]
    checked: Messages = check_messages(messages, name=name, starts=starts)
    return checked


def to_wire(model: str, responses: Sequence[ScoreResponse]) -> RewardsResponse:
    """The answer to one HTTP request, its items in order."""
    results = [r for response in responses for r in response.results]
    failures = [r for r in results if isinstance(r, ScoreFailure)]
    none_scored = len(failures) == len(results)
    return RewardsResponse(
        model=model,
        results=[
            ItemResponse(id=r.id, completions=[CompletionResult(**result_to_json(x)) for x in r.results])
            for r in responses
        ],
        error=ErrorDetail(code=failures[0].code, message=failures[0].message) if failures and none_scored else None,
    )


def to_card(model: ServedModel) -> ModelCard:
    """What `/v1/models` tells of a served model."""
    return ModelCard(
        id=model.name,
        kind=model.kind,
        model_version=model.model_version,
        reference=model.reference,
        tokenizer_hash=model.tokenizer_hash,
        max_length=model.max_length,
        canary=CanaryCard(model_version=model.canary.model_version, share=model.share) if model.canary else None,
    )


def field_path(location: Sequence[str | int]) -> str:
    """`items[0].prompt[3].role` for a pydantic location; the kind of content that was tried is left out."""
    path = ""
    for part in location[1:] if location and location[0] == "body" else location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in (*KINDS, "str") and not part.startswith(("list[", "function-")):
            path += f".{part}" if path else part
    return path or "body"
