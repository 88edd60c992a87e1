"""Write chat messages whose content is a list of parts as messages of text. Pure.

Called where rows become records (`sources`) and where conversations are rendered, so that a request reads like the row
it was trained on. Most chat templates take texts alone: given a list they fail, or write out Python's form of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmray.errors import RowError


def join_parts(messages: Sequence[Mapping[str, Any]], *, name: str = "messages") -> list[dict[str, Any]]:
    """The same messages, each list of parts ({"type": "text", "text": ...}) joined to one text, nothing in between, as
    templates that take parts write them. Raises RowError `not_text` for any other part, an image first of all."""
    return [
        {**message, "content": _join(message["content"], name)}
        if isinstance(message.get("content"), list | tuple)
        else dict(message)
        for message in messages
    ]


def _join(parts: Sequence[Any], name: str) -> str:
    return "".join(_text_of(part, name) for part in parts)


def _text_of(part: Any, name: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RowError(
        "not_text",
        f"`{name}` has a message with a part of type {kind!r:.40}",
        why='only text can be scored: {"type": "text", "text": "..."}',
    )
