"""Load a tokenizer, name it by a hash of its content, and give it a pad token that is safe for reward models.

Called by `prepare`, training, the bundle and `rmray import`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmray.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD_TOKEN = "<|rmray_pad|>"  # added only where a tokenizer has nothing that could serve

# Names that makers give to tokens meant for padding, then to spare rows, then to document ends.
_SPARE_NAMES = (
    re.compile(r"(^|[^a-z])pad([^a-z]|$)", re.IGNORECASE),
    re.compile(r"reserved|unused|extra_id|dummy|placeholder", re.IGNORECASE),
    re.compile(r"end_?of_?text", re.IGNORECASE),  # the document end of a tokenizer whose EOS ends turns
)


@dataclass(frozen=True, slots=True)
class PadChoice:
    """The pad token that `choose_pad_token` set.

    rule: `kept`, `spare` (an unused token of the vocabulary), `unknown` (the unknown token) or `added`.
    added: its id lies outside the model's vocabulary, so that the embeddings must be resized to hold it.
    """

    token: str
    id: int
    rule: str
    added: bool


def load_tokenizer(name_or_dir: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a directory or Hub id. Raises ModelError where there is none."""
    from transformers import AutoTokenizer  # seconds of imports, which prepare's readers need not pay

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_dir)
    except Exception as error:  # transformers raises whatever its many loaders raise
        raise ModelError(
            "cannot load a tokenizer",
            where=str(name_or_dir),
            why=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            next_step="give a directory with tokenizer.json, or a Hub id that this machine can reach",
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            "the tokenizer has no fast version",
            where=str(name_or_dir),
            why="boundaries between prompt and completion are found by offsets, which only fast tokenizers give",
            next_step="convert it (tokenizer.json), or choose another base model",
        )
    return tokenizer


def embedding_rows(base: str) -> int:
    """Rows of a base model's embedding, as its config says. Raises ModelError where there is none."""
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(base).get_text_config().vocab_size)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            "the base model has no config that can be read",
            where=base,
            why=str(error).strip().splitlines()[0],
            next_step="give a directory that save_pretrained wrote, or a Hub id that this machine can reach",
        ) from error


def load_base_tokenizer(base: str) -> tuple[PreTrainedTokenizerBase, PadChoice]:
    """A base model's tokenizer with its pad token: as its texts are prepared, and as its checkpoints have it.

    The choice is made anew wherever it is needed: two bases may share a prepared set and differ in it.
    """
    tokenizer = load_tokenizer(base)
    return tokenizer, choose_pad_token(tokenizer, embedding_rows(base))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that name which ids a text or chat becomes: tokenizer JSON, special tokens, chat template.

    The pad token is left out, since it never appears in rendered ids: a tokenizer keeps its hash when
    `choose_pad_token` gives it another one, and a policy's tokenizer that pads differently still matches.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.pop("truncation", None)  # state of the last call, not of the tokenizer
    content.pop("padding", None)
    content["added_tokens"] = [t for t in content.get("added_tokens", []) if t["content"] != PAD_TOKEN]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if name in _NAMED_TOKENS}
    return _digest({"tokenizer": content, "special": special, "chat_template": tokenizer.chat_template})


_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """16 hex digits of the chat template, or None where there is none."""
    return None if tokenizer.chat_template is None else _digest(tokenizer.chat_template)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def choose_pad_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> PadChoice:
    """Choose the pad token by one rule and set it on the tokenizer.

    Plain `AutoModelForSequenceClassification` reads a score at the last token that is not the pad id, so the pad must
    differ from EOS (or the EOS would be skipped) and lie inside the vocabulary. In this order: the tokenizer's own if
    it does both; a spare token (named for padding, then reserved or unused); the unknown token; a new token.

    vocab_size: rows of the model's embedding, which may exceed the tokenizer's own count.
    """
    pad = tokenizer.pad_token_id
    if pad is not None and pad != tokenizer.eos_token_id and pad < vocab_size:
        return PadChoice(str(tokenizer.pad_token), pad, "kept", False)
    spare = _spare_token(tokenizer, vocab_size)
    if spare is not None:
        return _set_pad(tokenizer, spare, "spare", vocab_size)
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown not in _spoken_ids(tokenizer) and unknown < vocab_size:
        return _set_pad(tokenizer, str(tokenizer.unk_token), "unknown", vocab_size)
    return _set_pad(tokenizer, PAD_TOKEN, "added", vocab_size)


def _spoken_ids(tokenizer: PreTrainedTokenizerBase) -> set[int | None]:
    return {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id}


def _spare_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> str | None:
    """A special token that no text, template or post-processor writes: the best-named, then the lowest id."""
    template = json.dumps(tokenizer.chat_template or "")
    candidates = [
        (i, token.content)
        for i, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special
        and i < vocab_size
        and i not in _spoken_ids(tokenizer)
        and i != tokenizer.unk_token_id
        and json.dumps(token.content)[1:-1] not in template
    ]
    for pattern in _SPARE_NAMES:
        for _, content in candidates:
            if pattern.search(content):
                return content
    return None


def _set_pad(tokenizer: PreTrainedTokenizerBase, token: str, rule: str, vocab_size: int) -> PadChoice:
    if rule == "added":
        tokenizer.add_special_tokens({"pad_token": token})
    else:
        tokenizer.pad_token = token  # already in the vocabulary: nothing else of the tokenizer changes
    pad = int(tokenizer.pad_token_id)
    return PadChoice(token, pad, rule, pad >= vocab_size)
