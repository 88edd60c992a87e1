"""Turn a prompt and its completions into token ids, by one rule for training, evaluation and serving.

Called by `prepare`, by evaluation and by every bundle. The whole text (prompt + completion, joined or by the chat
template) is tokenised at once; the boundary is found by offsets, and a token that straddles it belongs to the
completion. One EOS ends a finished completion.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rmray.data.group import TokenGroup, group_paths
from rmray.data.tokenizer import template_hash
from rmray.errors import ModelError, RowError
from rmray.schema import Content, TokenIds, is_blank

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RENDER_VERSION = 1

# Templates that write today's date would render the same chat differently tomorrow. A macro of the same name shadows
# transformers' function; templates of the Llama 3 kind take `date_string` before they ask for the date.
_FIXED_DATES = {"%d %b %Y": "26 Jul 2024", "%B %d, %Y": "July 26, 2024", "%Y-%m-%d": "2024-07-26"}
_FIXED_DATE_MACRO = (
    "{%- macro strftime_now(format) -%}{{- " + repr(_FIXED_DATES) + ".get(format, '2024-07-26') -}}{%- endmacro -%}"
)

# Reasoning is content that a model writes itself: its tokens stay what they are.
_REASONING = re.compile(r"think|reason", re.IGNORECASE)

Tools = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True)
class RenderRules:
    """Everything that decides which ids a conversation becomes, beside the tokenizer itself. Kept in the bundle.

    template_hash: of the chat template, None where there is none. bos: the tokenizer's own special tokens open plain
    text, the template's open a chat. eos: one EOS is appended unless the text, chat or ids already end with it.
    max_length: longest path in tokens. over_length: a longer path is an error, or loses its prompt's oldest tokens.
    think: what becomes of reasoning traces. date: what templates that write today's date get instead.
    """

    template_hash: str | None
    eos_id: int
    pad_id: int
    max_length: int
    over_length: Literal["drop", "truncate_prompt"] = "drop"
    bos: Literal["tokenizer"] = "tokenizer"
    eos: Literal["append_once"] = "append_once"
    think: Literal["keep"] = "keep"
    date: str = "2024-07-26"
    version: int = RENDER_VERSION

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        over_length: Literal["drop", "truncate_prompt"] = "drop",
    ) -> RenderRules:
        """The rules of a tokenizer that has its pad token (`choose_pad_token`). Raises ModelError where EOS is missing,
        or where the pad is missing or is the EOS."""
        eos = _eos_id(tokenizer)
        pad = tokenizer.pad_token_id
        if pad is None or pad == eos:
            raise ModelError(
                "the tokenizer has no pad token" if pad is None else "the tokenizer's pad token is its EOS",
                where=str(tokenizer.name_or_path),
                why="scores are read at the last token that is not the pad token",
                next_step="call rmray.data.tokenizer.choose_pad_token first",
            )
        return cls(template_hash(tokenizer), eos, pad, max_length, over_length)


def _eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id):  # encoders end with their separator
        if token_id is not None:
            return int(token_id)
    raise ModelError(
        "the tokenizer has no EOS token",
        where=str(tokenizer.name_or_path),
        why="one EOS ends every finished completion",
        next_step="set `eos_token` in tokenizer_config.json",
    )


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
        if rules.template_hash != template_hash(tokenizer) or rules.eos_id != _eos_id(tokenizer):
            raise ModelError(
                "the render rules were made for another tokenizer",
                where=str(tokenizer.name_or_path),
                why=f"template {rules.template_hash} against {template_hash(tokenizer)}, "
                f"EOS {rules.eos_id} against {_eos_id(tokenizer)}",
                next_step="use the tokenizer saved beside the rules",
            )
        self.tokenizer, self.rules = tokenizer, rules
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # a tokenizer.json may carry its last user's truncation and padding
        self._backend.no_padding()
        self._vocab_size = len(tokenizer)
        self._eos_text = str(tokenizer.convert_ids_to_tokens(rules.eos_id))
        self._dated = "strftime_now" in str(tokenizer.chat_template or "")
        specials = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        specials |= {str(t) for t in tokenizer.all_special_tokens} | self._turn_tokens()
        # Longest first, so that a token that contains another is found whole. A token of one character cannot be split.
        longest_first = sorted((t for t in specials if len(t) > 1), key=lambda t: (-len(t), t))
        self._special = re.compile("|".join(re.escape(t) for t in longest_first) or r"(?!)")
        self._opening_ids = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}

    def _turn_tokens(self) -> set[str]:
        """Tokens that the template writes around turns without their being marked as special, as DeepSeek's are."""
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            text = self._apply_template(turn + turn, None) if self.rules.template_hash else ""
        except RowError:
            return set()  # a template for other chats than this one: its special tokens alone are known
        tokens = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.content in text}
        return {t for t in tokens if not _REASONING.search(t)}

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
        RowError codes: blank_completion, mixed_content, bad_token_ids, no_chat_template, template_failed, over_length.
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
        text, boundary, escaped = self._escape(prompt + completion, len(prompt))
        return _Text(text, boundary, False, finished, escaped)

    def _draw_chat(self, prompt: _Turns, completion: _Turns, tools: Tools, finished: bool) -> _Text:
        if self.rules.template_hash is None:
            raise RowError(
                "no_chat_template",
                "chat messages, but the tokenizer has no chat template",
                next_step="set `chat_template` on the base model's tokenizer, or give plain text",
            )
        escaped = _Count()
        before, after, known_tools = (self._escape_all(part, escaped) for part in (prompt, completion, tools))
        text = self._apply_template([*before, *after], known_tools, continue_final_message=not finished)
        opening = self._apply_template(before, known_tools, add_generation_prompt=True) if before else ""
        # The prompt may be written otherwise once an answer follows it: what both begin with is the prompt.
        boundary = len(os.path.commonprefix([opening, text]))  # noqa: RUF071 (of characters, not of paths)
        return _Text(text, boundary, True, finished, escaped.total)

    def _apply_template(self, turns: _Turns, tools: Any, **options: Any) -> str:
        try:
            template = self.tokenizer.get_chat_template(None, tools)
            text = self.tokenizer.apply_chat_template(
                turns,
                tools=tools,
                tokenize=False,
                chat_template=_FIXED_DATE_MACRO + template if self._dated else template,
                date_string=_FIXED_DATES["%d %b %Y"],
                **options,
            )
        except Exception as error:  # a template is a program: it raises what it likes
            raise RowError(
                "template_failed", "the chat template refuses the messages", why=f"{type(error).__name__}: {error}"
            ) from error
        return str(text)

    def _escape(self, text: str, boundary: int = 0) -> tuple[str, int, int]:
        """Put a space into every written-out special token, so that user text cannot speak as the template does.

        Returns the text, the moved boundary, and how many tokens were escaped.
        """
        total = 0
        while True:  # tokens that overlap need another round
            moved = 0

            def split(match: re.Match[str], boundary: int = boundary) -> str:
                nonlocal moved
                moved += match.start() + 1 <= boundary
                return f"{match.group()[0]} {match.group()[1:]}"

            text, count = self._special.subn(split, text)
            if not count:
                return text, boundary, total
            boundary, total = boundary + moved, total + count

    def _escape_all(self, value: Any, escaped: _Count) -> Any:
        """The same for every string inside messages or tools; roles are names, checked by the schema."""
        if isinstance(value, str):
            text, _, count = self._escape(value)
            escaped.total += count
            return text
        if isinstance(value, Mapping):
            return {k: v if k == "role" else self._escape_all(v, escaped) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._escape_all(v, escaped) for v in value]
        return value

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


@dataclass(slots=True)
class _Count:
    total: int = 0


_Turns = list[dict[str, Any]]


def _as_turns(content: Content, role: str) -> _Turns:
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
