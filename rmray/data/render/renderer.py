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

from rmray.data.group import TokenGroup
from rmray.data.messages import join_parts
from rmray.data.render.chat import ChatTemplate, Tools, Turns
from rmray.data.render.escape import Escaper
from rmray.data.render.paths import RenderedPath, group_of
from rmray.data.render.reasoning import (
    CLOSE,
    OPEN,
    REASONING_FIELDS,
    check_traces,
    ids_without_traces,
    messages_without_traces,
    without_traces,
)
from rmray.data.render.rules import RENDER_VERSION, RenderRules, eos_id_of
from rmray.data.render.steps import (
    StepText,
    find_steps,
    step_tokens,
    steps_in_chat,
    with_last_separator,
    write_steps,
)
from rmray.data.render.token_ids import TokenIdReader
from rmray.data.tokenizer import template_hash
from rmray.errors import ModelError, RowError
from rmray.schema import Content, Steps, TokenIds, is_blank, plain_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class _Text:
    """A path before it is tokenised. boundary: where the completion begins, in characters; step_ends: likewise."""

    text: str
    boundary: int
    chat: bool
    finished: bool
    num_escaped: int
    step_ends: tuple[int, ...] = ()


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
        self._token_ids = TokenIdReader(tokenizer, rules.eos_id)
        self._eos_text = str(tokenizer.convert_ids_to_tokens(rules.eos_id))
        self._template = ChatTemplate(tokenizer)
        specials = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        specials |= {*map(str, tokenizer.all_special_tokens), *self._template.turn_tokens()}
        # What ends a step is written by whoever writes steps.
        self._separating = {token for token in specials if token in (rules.step_separator or "")}
        self._escaper = Escaper(specials - self._separating)
        vocabulary = tokenizer.get_vocab()
        self._think_ids = vocabulary.get(OPEN), vocabulary.get(CLOSE)
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
        over_length; needs_text, trace_dropped, trace_in_steps; no_step, no_steps, separator_in_step, steps_not_found,
        empty_step.
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

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of ids, a piece for each; see `TokenIdReader.texts`."""
        return self._token_ids.texts(ids)

    def _draw(self, prompt: Content, completion: Content, tools: Tools, finished: bool) -> _Text | RenderedPath:
        prompt, completion = _without_parts(prompt, "prompt"), _without_parts(completion, "completion")
        if self.rules.think == "strip":
            prompt, completion = self._without_traces(prompt, completion)
        if isinstance(completion, str):
            # Samplers that keep special tokens leave a written-out EOS at the very end: it is the EOS, not text.
            completion = completion.removesuffix(self._eos_text)
        if isinstance(completion, Steps) and completion.texts:
            completion = Steps((*completion.texts[:-1], completion.texts[-1].removesuffix(self._eos_text)))
        if is_blank(completion):
            raise RowError("blank_completion", "the completion is blank")
        if isinstance(completion, Steps) and self.rules.step_separator is None:
            raise RowError(
                "no_steps", "the completion is given in steps, and this model reads none", next_step="give one text"
            )
        if isinstance(prompt, TokenIds) or isinstance(completion, TokenIds):
            return self._join_ids(prompt, completion, finished)
        if isinstance(prompt, str) and isinstance(completion, str | Steps):
            return self._join_text(prompt, completion, finished)
        return self._draw_chat(_as_turns(prompt, "user"), completion, tools, finished)

    def _without_traces(self, prompt: Content, completion: Content) -> tuple[Content, Content]:
        """Of the completion, and of what the assistant said before in a chat."""
        prompt = messages_without_traces(prompt) if isinstance(prompt, tuple) else prompt
        if isinstance(completion, Steps) and any(OPEN in step or CLOSE in step for step in completion.texts):
            raise RowError(
                "trace_in_steps",
                f"a step holds {OPEN} or {CLOSE}, and this model scores completions without their reasoning",
                next_step="leave the trace's steps out, with their labels",
            )
        if isinstance(completion, str):
            return prompt, without_traces(completion)
        if isinstance(completion, TokenIds):
            return prompt, TokenIds(ids_without_traces(completion.ids, *self._think_ids))
        return prompt, messages_without_traces(completion) if isinstance(completion, tuple) else completion

    def _join_ids(self, prompt: Content, completion: Content, finished: bool) -> RenderedPath:
        before = prompt.ids if isinstance(prompt, TokenIds) else () if is_blank(prompt) else None
        if before is None or not isinstance(completion, TokenIds):
            raise RowError("mixed_content", "token ids and text cannot be mixed in one prompt and completion")
        if set(completion.ids) <= {self.rules.eos_id}:
            raise RowError("blank_completion", "the completion is blank: an end of sequence alone")
        ids = [*before, *completion.ids]
        worst = max(ids)
        if worst >= self._vocab_size:
            raise RowError("bad_token_ids", f"token id {worst} is outside the vocabulary of {self._vocab_size}")
        step_ends: tuple[int, ...] = ()
        if self.rules.step_separator is not None:
            ids, step_ends = self._token_ids.find_steps(ids, len(before), self.rules.step_separator, finished)
        if finished and not self._token_ids.ends(ids):
            ids.append(self.rules.eos_id)
        return RenderedPath(ids, len(before), False, step_ends=step_ends)

    def _join_text(self, prompt: str, completion: str | Steps, finished: bool) -> _Text:
        separator = self.rules.step_separator
        if isinstance(completion, Steps):
            steps, in_steps = self._write_steps(completion)
            text, boundary, escaped = self._escaper.text(prompt + steps.text, len(prompt))
            if text[boundary:] != steps.text:
                raise RowError("steps_not_found", "prompt and separator together make a special token")
            return _Text(text, boundary, False, finished, escaped + in_steps, steps.moved(boundary))
        text, boundary, escaped = self._escaper.text(prompt + completion, len(prompt))
        if separator is None:
            return _Text(text, boundary, False, finished, escaped)
        steps = find_steps(text[boundary:], separator, finished=finished)
        return _Text(text[:boundary] + steps.text, boundary, False, finished, escaped, steps.moved(boundary))

    def _write_steps(self, given: Steps) -> tuple[StepText, int]:
        """The steps as text, and how many special tokens were escaped in them."""
        separator = self.rules.step_separator
        assert separator is not None  # `_draw` has seen to it
        for token in self._separating:
            if any(token in step.removesuffix(separator) for step in given.texts):
                raise RowError("separator_in_step", f"a step holds {token!r}, which ends steps")
        escaped = [self._escaper.text(step) for step in given.texts]
        return write_steps(Steps(tuple(text for text, _, _ in escaped)), separator), sum(n for _, _, n in escaped)

    def _draw_chat(self, prompt: Turns, completion: Content, tools: Tools, finished: bool) -> _Text:
        steps: StepText | None = None
        if self.rules.step_separator is not None:
            steps, n_after = self._steps_of_answer(completion, self.rules.step_separator, finished)
            after: Turns = [{"role": "assistant", "content": steps.text}]
        else:
            after, n_after = self._escaper.everything(_as_turns(completion, "assistant"))
        before, n_before = self._escaper.everything(prompt)
        known_tools, n_tools = self._escaper.everything(tools)
        text = self._template.write([*before, *after], known_tools, continue_final_message=not finished)
        if self.rules.think == "keep":
            check_traces(after, text)
        if steps and not finished:
            text = with_last_separator(text, steps)
        opening = self._template.write(before, known_tools, add_generation_prompt=True) if before else ""
        # The prompt may be written otherwise once an answer follows it: what both begin with is the prompt.
        boundary = len(os.path.commonprefix([opening, text]))  # noqa: RUF071 (of characters, not of paths)
        step_ends = steps_in_chat(text, steps, boundary) if steps else ()
        return _Text(text, boundary, True, finished, n_before + n_after + n_tools, step_ends)

    def _steps_of_answer(self, completion: Content, separator: str, finished: bool) -> tuple[StepText, int]:
        """The steps of a chat's last turn, and how many special tokens were escaped in them."""
        if isinstance(completion, Steps):
            return self._write_steps(completion)
        turns = _as_turns(completion, "assistant")
        if len(turns) != 1 or turns[0]["role"] != "assistant" or not isinstance(turns[0].get("content"), str):
            raise RowError("not_text", "steps are read in one turn of the assistant", why=f"{len(turns)} turn(s) given")
        if traces := [name for name in REASONING_FIELDS if turns[0].get(name)]:
            raise RowError(
                "not_text",
                "steps are read in a message's content, and its reasoning stands beside it",
                why=f"the message has `{traces[0]}`",
                next_step="put it into the steps, or take traces out (data.think: strip)",
            )
        text, _, escaped = self._escaper.text(turns[0]["content"].removesuffix(self._eos_text))
        return find_steps(text, separator, finished=finished), escaped

    def _path(self, text: _Text, ids: list[int], offsets: list[tuple[int, int]]) -> RenderedPath | RowError:
        # Special tokens that the tokenizer itself puts around plain text have the offsets (0, 0).
        prompt_len = next((i for i, (_, end) in enumerate(offsets) if end > text.boundary), None)
        if prompt_len is None:
            return RowError("blank_completion", "the completion has no token")
        ended = self._token_ids.ends(ids)
        if text.finished and not ended:
            ids.append(self.rules.eos_id)
        elif not text.finished and ended and not text.chat:
            while ids.pop() != self.rules.eos_id:
                pass
        try:
            step_ends = step_tokens(text.step_ends, offsets)
        except RowError as error:
            return error
        return RenderedPath(ids, prompt_len, False, text.num_escaped, step_ends)

    def _fit(self, path: RenderedPath, truncate: bool) -> RenderedPath | RowError:
        cut = len(path.ids) - self.rules.max_length
        if cut <= 0:
            return path
        if truncate or self.rules.over_length == "truncate_prompt":
            opening = int(path.ids[0] in self._opening_ids)  # BOS stays
            if opening + cut < path.prompt_len:
                ids = path.ids[:opening] + path.ids[opening + cut :]
                step_ends = tuple(end - cut for end in path.step_ends)
                return RenderedPath(ids, path.prompt_len - cut, True, path.num_escaped, step_ends)
        return RowError(
            "over_length",
            f"{len(path.ids)} tokens, {self.rules.max_length} are allowed",
            next_step="raise `max_length`, or shorten the text",
        )


def _without_parts(content: Content, name: str) -> Content:
    """Messages whose content is text. Rows come so already; requests come as they were sent."""
    return content if isinstance(content, str | TokenIds | Steps) else tuple(join_parts(content, name=name))


def _as_turns(content: Content, role: str) -> Turns:
    """Messages as they are; text as one message of `role`, blank prompts as none."""
    if isinstance(content, tuple):
        return [dict(message) for message in content]
    text = plain_text(content)
    return [{"role": role, "content": text}] if text.strip() else []
