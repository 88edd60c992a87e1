"""Turn a prompt and its completions into token ids, by one rule for training, evaluation and serving.

Called by `prepare`, by evaluation and by every bundle. The whole text (prompt + completion, joined or by the chat
template) is tokenised at once; the boundary is found by offsets, and a token that straddles it belongs to the
completion. One EOS ends a finished completion.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmray.data.group import TokenGroup, group_paths
from rmray.data.messages import join_parts
from rmray.data.render.chat import ChatTemplate, Tools, Turns
from rmray.data.render.escape import Escaper
from rmray.data.render.rules import RENDER_VERSION, RenderRules, eos_id_of
from rmray.data.tokenizer import template_hash
from rmray.errors import ModelError, RowError
from rmray.schema import Content, Steps, TokenIds, is_blank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class RenderedPath:
    """One prompt and completion as ids. ids[:prompt_len] are the prompt's.

    truncated: the prompt lost its oldest tokens. num_escaped: special tokens written out in the text, made harmless.
    """

    ids: list[int]
    prompt_len: int
    truncated: bool
    num_escaped: int = 0


@dataclass(frozen=True, slots=True)
class _Text:
    """A path before it is tokenised. boundary: where the completion begins, in characters."""

    text: str
    boundary: int
    chat: bool
    finished: bool
    num_escaped: int


class Renderer:
    """Renders by `rules`. Holds no state that a call changes, so that threads may share it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rules: RenderRules) -> None:
        """Raises ModelError where the rules were made for another tokenizer or by a newer rmray."""
        if rules.version != RENDER_VERSION:
            raise ModelError(f"render rules have version {rules.version}, this rmray renders {RENDER_VERSION}")
        if rules.template_hash != template_hash(tokenizer) or rules.eos_id != eos_id_of(tokenizer):
            raise ModelError(
                "the render rules were made for another tokenizer",
                where=str(tokenizer.name_or_path),
                why=f"template {rules.template_hash} against {template_hash(tokenizer)}, "
                f"EOS {rules.eos_id} against {eos_id_of(tokenizer)}",
                next_step="use the tokenizer saved beside the rules",
            )
        self.tokenizer, self.rules = tokenizer, rules
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # a tokenizer.json may carry its last user's truncation and padding
        self._backend.no_padding()
        self._vocab_size = len(tokenizer)
        self._eos_text = str(tokenizer.convert_ids_to_tokens(rules.eos_id))
        self._template = ChatTemplate(tokenizer)
        specials = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self._escaper = Escaper({*specials, *map(str, tokenizer.all_special_tokens), *self._template.turn_tokens()})
        self._opening_ids = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}

    def render_paths(
        self,
        prompt: Content,
        completions: Sequence[Content],
        *,
        tools: Tools = None,
        finished: Sequence[bool] | None = None,
        truncate: bool = False,
    ) -> list[RenderedPath | RowError]:
        """Ids of each completion behind the prompt, or why it has none; one bad completion fails alone.

        finished: whether each completion ended by itself; an unfinished one gets no EOS and no end of turn.
        truncate: cut the prompt of over-length paths even where the rules would drop them.
        RowError codes: blank_completion, mixed_content, not_text, bad_token_ids, no_chat_template, template_failed,
        over_length.
        """
        ends = finished if finished is not None else [True] * len(completions)
        results: list[RenderedPath | RowError | None] = [None] * len(completions)
        texts: dict[int, _Text] = {}
        for k, (completion, end) in enumerate(zip(completions, ends, strict=True)):
            try:
                drawn = self._draw(prompt, completion, tools, end)
            except RowError as error:
                results[k] = error
                continue
            if isinstance(drawn, _Text):
                texts[k] = drawn
            else:
                results[k] = drawn
        for chat in (False, True):
            group = [k for k, text in texts.items() if text.chat is chat]
            if group:
                encodings = self._backend.encode_batch([texts[k].text for k in group], add_special_tokens=not chat)
                for k, encoding in zip(group, encodings, strict=True):
                    results[k] = self._path(texts[k], encoding.ids, encoding.offsets)
        return [self._fit(r, truncate) if isinstance(r, RenderedPath) else r for r in results if r is not None]

    def render_group(self, prompt: Content, completions: Sequence[Content], *, tools: Tools = None) -> TokenGroup:
        """The K paths with their common prefix stored once. Raises the first completion's RowError."""
        return group_of(self.render_paths(prompt, completions, tools=tools))

    def _draw(self, prompt: Content, completion: Content, tools: Tools, finished: bool) -> _Text | RenderedPath:
        prompt, completion = _without_parts(prompt, "prompt"), _without_parts(completion, "completion")
        if isinstance(completion, str):
            # Samplers that keep special tokens leave a written-out EOS at the very end: it is the EOS, not text.
            completion = completion.removesuffix(self._eos_text)
        if is_blank(completion):
            raise RowError("blank_completion", "the completion is blank")
        if isinstance(prompt, TokenIds) or isinstance(completion, TokenIds):
            return self._join_ids(prompt, completion, finished)
        if isinstance(prompt, str) and isinstance(completion, str):
            return self._join_text(prompt, completion, finished)
        return self._draw_chat(_as_turns(prompt, "user"), _as_turns(completion, "assistant"), tools, finished)

    def _join_ids(self, prompt: Content, completion: Content, finished: bool) -> RenderedPath:
        before = prompt.ids if isinstance(prompt, TokenIds) else () if is_blank(prompt) else None
        if before is None or not isinstance(completion, TokenIds):
            raise RowError("mixed_content", "token ids and text cannot be mixed in one prompt and completion")
        ids = [*before, *completion.ids]
        worst = max(ids)
        if worst >= self._vocab_size:
            raise RowError("bad_token_ids", f"token id {worst} is outside the vocabulary of {self._vocab_size}")
        if finished and not self._ends_with_eos(ids):
            ids.append(self.rules.eos_id)
        return RenderedPath(ids, len(before), False)

    def _ends_with_eos(self, ids: list[int]) -> bool:
        """White space behind the EOS is what templates write between turns."""
        for token_id in reversed(ids):
            if token_id == self.rules.eos_id:
                return True
            if str(self.tokenizer.decode([token_id])).strip():
                return False
        return False

    def _join_text(self, prompt: str, completion: str, finished: bool) -> _Text:
        text, boundary, escaped = self._escaper.text(prompt + completion, len(prompt))
        return _Text(text, boundary, False, finished, escaped)

    def _draw_chat(self, prompt: Turns, completion: Turns, tools: Tools, finished: bool) -> _Text:
        (before, n_before), (after, n_after) = self._escaper.everything(prompt), self._escaper.everything(completion)
        known_tools, n_tools = self._escaper.everything(tools)
        text = self._template.write([*before, *after], known_tools, continue_final_message=not finished)
        opening = self._template.write(before, known_tools, add_generation_prompt=True) if before else ""
        # The prompt may be written otherwise once an answer follows it: what both begin with is the prompt.
        boundary = len(os.path.commonprefix([opening, text]))  # noqa: RUF071 (of characters, not of paths)
        return _Text(text, boundary, True, finished, n_before + n_after + n_tools)

    def _path(self, text: _Text, ids: list[int], offsets: list[tuple[int, int]]) -> RenderedPath | RowError:
        # Special tokens that the tokenizer itself puts around plain text have the offsets (0, 0).
        prompt_len = next((i for i, (_, end) in enumerate(offsets) if end > text.boundary), None)
        if prompt_len is None:
            return RowError("blank_completion", "the completion has no token")
        ended = self._ends_with_eos(ids)
        if text.finished and not ended:
            ids.append(self.rules.eos_id)
        elif not text.finished and ended and not text.chat:
            while ids.pop() != self.rules.eos_id:
                pass
        return RenderedPath(ids, prompt_len, False, text.num_escaped)

    def _fit(self, path: RenderedPath, truncate: bool) -> RenderedPath | RowError:
        cut = len(path.ids) - self.rules.max_length
        if cut <= 0:
            return path
        if truncate or self.rules.over_length == "truncate_prompt":
            opening = int(path.ids[0] in self._opening_ids)  # BOS stays
            if opening + cut < path.prompt_len:
                ids = path.ids[:opening] + path.ids[opening + cut :]
                return RenderedPath(ids, path.prompt_len - cut, True, path.num_escaped)
        return RowError(
            "over_length",
            f"{len(path.ids)} tokens, {self.rules.max_length} are allowed",
            next_step="raise `max_length`, or shorten the text",
        )


def _without_parts(content: Content, name: str) -> Content:
    """Messages whose content is text. Rows come so already; requests come as they were sent."""
    if isinstance(content, Steps):
        raise RowError(
            "no_steps", "the completion is given in steps, and this model reads none", next_step="give one text"
        )
    return content if isinstance(content, str | TokenIds) else tuple(join_parts(content, name=name))


def _as_turns(content: Content, role: str) -> Turns:
    """Messages as they are; text as one message of `role`, blank prompts as none."""
    if isinstance(content, str):
        return [{"role": role, "content": content}] if content.strip() else []
    return [dict(message) for message in content]  # type: ignore[union-attr]


def group_of(paths: Sequence[RenderedPath | RowError]) -> TokenGroup:
    """The K paths with their common prefix stored once. Raises the first RowError among them."""
    good: list[RenderedPath] = []
    for path in paths:
        if isinstance(path, RowError):
            raise path
        good.append(path)
    return group_paths([p.ids for p in good], [p.prompt_len for p in good])
