"""Render with a tokenizer and look at what comes of it: what the suites of rendering share."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast

from rmray.data.render import RenderedPath, Renderer, RenderRules
from rmray.errors import RowError
from rmray.schema import Content
from tests.data.tokenizers import llama_like, plain_like, qwen_like

QUESTION = [{"role": "user", "content": "What is two plus three?"}]
ANSWER = [{"role": "assistant", "content": "five"}]
FAMILIES = [qwen_like, llama_like, plain_like]


def renderer_of(tokenizer: PreTrainedTokenizerFast, max_length: int = 200, over_length: Any = "drop") -> Renderer:
    return Renderer(tokenizer, RenderRules.for_tokenizer(tokenizer, max_length=max_length, over_length=over_length))


def good(result: RenderedPath | RowError) -> RenderedPath:
    assert isinstance(result, RenderedPath), result
    return result


def one(renderer: Renderer, prompt: Content, completion: Content, **options: Any) -> RenderedPath:
    return good(renderer.render_paths(prompt, [completion], **options)[0])


def code(result: RenderedPath | RowError) -> str:
    assert isinstance(result, RowError), result
    return result.code
