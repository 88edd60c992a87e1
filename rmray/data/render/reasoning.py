"""Take reasoning traces out of completions, where the render rules say `think: strip`. Called by `Renderer`. Pure.

A trace is what stands between <think> and </think>. Templates may write the first tag themselves, so that a completion
begins within the trace; a trace that never ends leaves nothing to score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rmray.errors import RowError
from rmray.schema import Messages

OPEN, CLOSE = "<think>", "</think>"
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message under which servers and templates keep its trace."""

_TRACE = re.compile(rf"{OPEN}.*?(?:{CLOSE}\s*|\Z)", re.DOTALL)


def without_traces(text: str) -> str:
    """The text without its traces and the white space behind them."""
    before, close, after = text.partition(CLOSE)
    if close and OPEN not in before:
        text = after.lstrip()
    return _TRACE.sub("", text)


def check_traces(messages: Sequence[Mapping[str, Any]], text: str) -> None:
    """Raise RowError `trace_dropped` where an answer's trace is not in the text that a chat template made of it: many
    templates leave traces out, and what is to be kept would not be scored."""
    for message in messages:
        content = message.get("content")
        traces = [str(message.get(name) or "") for name in REASONING_FIELDS]
        traces += _TRACE.findall(content) if isinstance(content, str) else []
        for trace in traces:
            inner = trace.strip().removeprefix(OPEN).removesuffix(CLOSE).strip()
            if message["role"] == "assistant" and inner not in text:
                raise RowError(
                    "trace_dropped",
                    "the chat template leaves the reasoning trace out, and this model is to score it",
                    next_step="set data.think to strip, or use a template that keeps traces",
                )


def messages_without_traces(messages: Sequence[Mapping[str, Any]]) -> Messages:
    """The same messages, the assistant's without traces; their content is text or nothing."""
    return tuple(_stripped(m) if m["role"] == "assistant" else m for m in messages)


def _stripped(message: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in message.items() if key not in REASONING_FIELDS}
    return kept | {"content": without_traces(kept["content"])} if isinstance(kept.get("content"), str) else kept


def ids_without_traces(ids: Sequence[int], open_id: int | None, close_id: int | None) -> tuple[int, ...]:
    """The same for token ids. Raises RowError `needs_text` where the tags are no single tokens."""
    if open_id is None or close_id is None:
        raise RowError(
            "needs_text",
            "this model scores completions without their reasoning, which cannot be found in token ids",
            why=f"{OPEN} and {CLOSE} are no single tokens of its tokenizer",
            next_step="send the text",
        )
    kept = list(ids)
    if close_id in kept and open_id not in kept[: kept.index(close_id)]:
        kept = kept[kept.index(close_id) + 1 :]
    while open_id in kept:
        start = kept.index(open_id)
        end = kept.index(close_id, start) + 1 if close_id in kept[start:] else len(kept)
        kept = kept[:start] + kept[end:]
    return tuple(kept)
