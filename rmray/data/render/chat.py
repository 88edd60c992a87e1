"""Write a chat as the tokenizer's template does, today and tomorrow alike. Called by `Renderer`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmray.errors import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Templates that write today's date would render the same chat differently tomorrow. A macro of the same name shadows
# transformers' function; templates of the Llama 3 kind take `date_string` before they ask for the date.
_FIXED_DATES = {"%d %b %Y": "26 Jul 2024", "%B %d, %Y": "July 26, 2024", "%Y-%m-%d": "2024-07-26"}
_FIXED_DATE_MACRO = (
    "{%- macro strftime_now(format) -%}{{- " + repr(_FIXED_DATES) + ".get(format, '2024-07-26') -}}{%- endmacro -%}"
)

# Reasoning is content that a model writes itself: its tokens stay what they are.
_REASONING = re.compile(r"think|reason", re.IGNORECASE)

Tools = Sequence[Mapping[str, Any]] | None
Turns = list[dict[str, Any]]


class ChatTemplate:
    """The chat template of a tokenizer, if it has one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._dated = "strftime_now" in str(tokenizer.chat_template or "")

    def write(self, turns: Turns, tools: Any, **options: Any) -> str:
        """The text of a conversation. Raises RowError `no_chat_template`, `template_failed`."""
        if self._tokenizer.chat_template is None:
            raise RowError(
                "no_chat_template",
                "chat messages, but the tokenizer has no chat template",
                next_step="set `chat_template` on the base model's tokenizer, or give plain text",
            )
        try:
            template = self._tokenizer.get_chat_template(None, tools)
            text = self._tokenizer.apply_chat_template(
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

    def turn_tokens(self) -> set[str]:
        """Tokens that the template writes around turns without their being marked as special, as DeepSeek's are."""
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            text = self.write(turn + turn, None)
        except RowError:
            return set()  # a template for other chats than this one: its special tokens alone are known
        tokens = {t.content for t in self._tokenizer.added_tokens_decoder.values() if t.content in text}
        return {t for t in tokens if not _REASONING.search(t)}
