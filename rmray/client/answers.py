"""Read the JSON that a gateway answers: models, results, refusals, faults. Pure; called by `http` and `connections`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rmray.config.serve import ServedModel
from rmray.errors import RequestError
from rmray.result_json import result_from_json
from rmray.retry import RETRY_CODES, TryAgainError, retry_after_seconds
from rmray.schema import ItemResult, ScoreFailure

BUSY = (429, 503)
"""Statuses that ask to come again later."""
LOST = (408, 502, 504)
"""Statuses of a proxy whose server behind it did not answer."""
FINAL = {
    401: ("unauthorized", "the server refuses the key", "give `api_key`, or another one"),
    403: ("unauthorized", "the server refuses the key", "give `api_key`, or another one"),
    404: ("not_found", "this server has no such route", "check the address, and its path"),
    413: ("body_too_large", "the message is too large for the server", "score fewer or shorter completions at once"),
}
"""Code, sentence and next step for statuses whose answer has no code of its own."""

_ITEM = re.compile(r"items\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. body: its JSON object, empty where it is none. location: where a redirect points to."""

    status: int
    body: Mapping[str, Any]
    retry_after_s: float | None = None
    location: str | None = None

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], content: bytes) -> Answer:
        """headers: asked by names in small letters."""
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        return cls(
            status,
            body if isinstance(body, dict) else {},
            retry_after_seconds(headers.get("retry-after")),
            headers.get("location"),
        )


def choose_card(answer: Answer, name: str | None, url: str) -> ServedModel:
    """The model of that name out of `/v1/models`, or the only one where no name is given."""
    try:
        cards = [_card(card, url) for card in answer.body["data"]]
    except (KeyError, OverflowError, TypeError, ValueError):
        raise _no_gateway("a list of models was expected", url) from None
    names = ", ".join(sorted(card.name for card in cards)) or "none"
    for card in cards:
        if card.name == name or (name is None and len(cards) == 1):
            return card
    if name is None and cards:
        raise RequestError("model_missing", "several models are served; say which", where=url, why=f"served: {names}")
    what = "no reward model is served" if name is None else f"no reward model named {name!r} is served"
    raise RequestError("unknown_model", what, where=url, why=f"served: {names}")


def _card(card: Mapping[str, Any], url: str) -> ServedModel:
    """A model of the list. Its canary is of the same kind, reference and tokenizer, or the server would not have it."""
    model = ServedModel(
        name=_text(card["id"]),
        app=url,
        kind=_text(card["kind"]),
        model_version=_text(card["model_version"]),
        reference=_text(card["reference"]),
        tokenizer_hash=_text(card["tokenizer_hash"]),
        max_length=int(card["max_length"]),
    )
    if (canary := card.get("canary")) is None:
        return model
    other = replace(model, model_version=_text(canary["model_version"]))
    return replace(model, canary=other, share=float(canary["share"]))


def refused_items(answer: Answer, num_items: int) -> dict[int, str]:
    """Number of each item that made a message invalid, with why; empty where anything else is wrong with it."""
    error = _error(answer)
    if answer.status != 422 or error.get("code") != "invalid_request" or not isinstance(error.get("fields"), list):
        return {}
    refused: dict[int, str] = {}
    for field in error["fields"]:
        match = _ITEM.fullmatch(str(field.get("field"))) if isinstance(field, Mapping) else None
        if match is None or int(match[1]) >= num_items:
            return {}
        path = match[2].lstrip(".")
        message = str(field.get("message"))
        refused.setdefault(int(match[1]), f"{path}: {message}" if path else message)
    return refused


def read_results(answer: Answer, shape: Sequence[tuple[str, int]], url: str) -> list[list[ItemResult]]:
    """Results of each item, its failures in place. shape: id and number of completions of each item sent.

    Where nothing could be scored the status is not 200, yet the failures are there. Raises `fault_of` the answer
    where there are none, and RequestError `bad_response` where they are not these items' answers.
    """
    items = answer.body.get("results")
    if not isinstance(items, list):
        if answer.status == 200:
            raise _no_gateway("`results` was expected", url)
        raise fault_of(answer, url)
    try:
        found = [(item["id"], len(item["completions"])) for item in items]
        if found != list(shape):
            raise RequestError("bad_response", "an answer does not fit its request", where=url)
        return [[_result(c, answer.retry_after_s) for c in item["completions"]] for item in items]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise _no_gateway("a result has not the fields that it must have", url) from None


def _result(entry: Mapping[str, Any], retry_after_s: float | None) -> ItemResult:
    result = result_from_json(entry)
    if isinstance(result, ScoreFailure) and result.code in RETRY_CODES:
        return replace(result, retry_after_s=retry_after_s)
    return result


def fault_of(answer: Answer, url: str) -> RequestError:
    """What an answer without results means: TryAgainError where asking again may mend it."""
    error = _error(answer)
    code = error.get("code") if isinstance(error.get("code"), str) else None
    message = str(error["message"]) if code and isinstance(error.get("message"), str) else ""
    what = message or f"the server answered {answer.status}"
    if code in RETRY_CODES or answer.status in BUSY:
        again = code if code in RETRY_CODES else "overloaded"
        return TryAgainError(str(again), what, retry_after_s=answer.retry_after_s, where=url)
    if code is None and answer.status in LOST:
        return TryAgainError("replica_lost", what, retry_after_s=answer.retry_after_s, where=url)
    if answer.status in FINAL:
        default, sentence, next_step = FINAL[answer.status]
        known = {"next_step": next_step} if code in (None, default) else {}
        return RequestError(code or default, message or sentence, where=url, **known)
    if code is not None:
        return RequestError(code, what, where=url)
    if answer.location is not None:
        # Following it would send the texts and the key where nobody asked them to go.
        return RequestError("bad_response", "the server redirects", where=url, why=f"to {answer.location}")
    return RequestError("bad_response", what, where=url, next_step="check that this is the address of an rmray server")


def _error(answer: Answer) -> Mapping[str, Any]:
    error = answer.body.get("error")
    return error if isinstance(error, Mapping) else {}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _no_gateway(why: str, url: str) -> RequestError:
    return RequestError(
        "bad_response",
        "the answer is not one of rmray's",
        where=url,
        why=why,
        next_step="check that this is the address of an rmray server",
    )
