"""A ScoreRequest as JSON and back, exactly. Used by the goldens file and by the hash of a reference set."""

from __future__ import annotations

from typing import Any

from rmray.schema import Content, ScoreRequest, Steps, TokenIds


def request_to_json(request: ScoreRequest) -> dict[str, Any]:
    """Text is a string, messages are a list of objects, token ids are {"token_ids": [...]}, steps {"steps": [...]}."""
    return {
        "prompt": content_to_json(request.prompt),
        "completions": [content_to_json(c) for c in request.completions],
        "finished": list(request.finished),
        "tokenizer_hash": request.tokenizer_hash,
        "tools": [dict(t) for t in request.tools] if request.tools is not None else None,
        "truncate": request.truncate,
        "id": request.id,
    }


def request_from_json(raw: dict[str, Any]) -> ScoreRequest:
    tools = raw.get("tools")
    return ScoreRequest(
        prompt=content_from_json(raw["prompt"]),
        completions=tuple(content_from_json(c) for c in raw["completions"]),
        finished=tuple(raw["finished"]),
        tokenizer_hash=raw.get("tokenizer_hash"),
        tools=tuple(tools) if tools is not None else None,
        truncate=raw.get("truncate", False),
        id=raw.get("id"),
    )


def content_to_json(content: Content) -> Any:
    if isinstance(content, TokenIds):
        return {"token_ids": list(content.ids)}
    if isinstance(content, Steps):
        return {"steps": list(content.texts)}
    return content if isinstance(content, str) else [dict(m) for m in content]


def content_from_json(raw: Any) -> Content:
    if isinstance(raw, dict):
        return Steps(tuple(raw["steps"])) if "steps" in raw else TokenIds(tuple(raw["token_ids"]))
    return raw if isinstance(raw, str) else tuple(raw)
