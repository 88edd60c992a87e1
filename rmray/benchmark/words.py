"""A tokenizer for random token ids: each is a word. For peers that want text, or a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rmray.benchmark.workloads import PAD_ID

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


EOS_ID = 1
_SPECIAL = {PAD_ID: "<pad>", EOS_ID: "<eos>"}  # not to be found inside other words: special tokens part any text


def text_of(token_ids: Iterable[int]) -> str:
    """The text that the tokenizer makes these ids of."""
    return " ".join(_SPECIAL.get(i, f"w{i}") for i in token_ids)


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Words are parted by spaces; nothing is added."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, eos = _SPECIAL[PAD_ID], _SPECIAL[EOS_ID]
    tokenizer = Tokenizer(models.WordLevel({text_of([i]): i for i in range(vocab_size)}, unk_token=pad))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=eos)
