"""The rules by which text becomes token ids: kept in the manifest and the bundle, the same wherever a model is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rmray.data.tokenizer import template_hash
from rmray.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RENDER_VERSION = 1  # raise it when the same conversation would become other ids


@dataclass(frozen=True, slots=True)
class RenderRules:
    """Everything that decides which ids a conversation becomes, beside the tokenizer itself. Kept in the bundle.

    template_hash: of the chat template, None where there is none. bos: the tokenizer's own special tokens open plain
    text, the template's open a chat. eos: one EOS is appended unless the text, chat or ids already end with it.
    max_length: longest path in tokens. over_length: a longer path is an error, or loses its prompt's oldest tokens.
    think: what becomes of a completion's reasoning traces (see `reasoning`). step_separator: what ends each step of a
    completion (see `steps`); None where a model reads no steps. date: what templates that write today's date get
    instead.
    """

    template_hash: str | None
    eos_id: int
    pad_id: int
    max_length: int
    over_length: Literal["drop", "truncate_prompt"] = "drop"
    bos: Literal["tokenizer"] = "tokenizer"
    eos: Literal["append_once"] = "append_once"
    think: Literal["keep", "strip"] = "keep"
    step_separator: str | None = None
    date: str = "2024-07-26"
    version: int = RENDER_VERSION

    @classmethod
    def for_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        over_length: Literal["drop", "truncate_prompt"] = "drop",
        think: Literal["keep", "strip"] = "keep",
        step_separator: str | None = None,
    ) -> RenderRules:
        """The rules of a tokenizer that has its pad token (`choose_pad_token`). Raises ModelError where EOS is missing,
        where the pad is missing or is the EOS, or where steps would end with the EOS."""
        eos = eos_id_of(tokenizer)
        pad = tokenizer.pad_token_id
        if pad is None or pad == eos:
            raise ModelError(
                "the tokenizer has no pad token" if pad is None else "the tokenizer's pad token is its EOS",
                where=str(tokenizer.name_or_path),
                why="scores are read at the last token that is not the pad token",
                next_step="call rmray.data.tokenizer.choose_pad_token first",
            )
        reserved = [str(tokenizer.convert_ids_to_tokens(token_id)) for token_id in (eos, pad)]
        if step_separator is not None and (not step_separator or any(token in step_separator for token in reserved)):
            raise ModelError(
                f"steps cannot be told apart by {step_separator!r}",
                where=str(tokenizer.name_or_path),
                why="it is empty, or holds the token that ends a whole completion or the one that pads",
                next_step="set data.step_separator to a line feed, an empty line, or a token of its own",
            )
        return cls(
            template_hash(tokenizer),
            eos,
            pad,
            max_length,
            over_length,
            think=think,
            step_separator=step_separator,
        )


def eos_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a finished completion. Raises ModelError where there is none."""
    for token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id):  # encoders end with their separator
        if token_id is not None:
            return int(token_id)
    raise ModelError(
        "the tokenizer has no EOS token",
        where=str(tokenizer.name_or_path),
        why="one EOS ends every finished completion",
        next_step="set `eos_token` in tokenizer_config.json",
    )
