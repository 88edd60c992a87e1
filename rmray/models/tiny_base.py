"""Build a small base model and its tokenizer from texts alone. Used by the quickstart and by tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD, EOS = "<pad>", "<eos>"
TURN_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
SPECIAL_TOKENS = (PAD, EOS, *TURN_TOKENS)
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # one token a byte, so that any text can be tokenised
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + (m['content'] or '') + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tiny_base(
    directory: str | Path,
    texts: Iterable[str],
    *,
    layers: int,
    hidden: int,
    vocab_size: int,
    heads: int | None = None,
    max_length: int = 2048,
    seed: int = 0,
    initializer_range: float = 0.02,
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Write a randomly initialised Qwen3ForCausalLM and a byte-level BPE tokenizer trained on `texts`; the directory.

    hidden: width in all, divided by `heads` (default: heads 32 wide, at least 2); two heads share a key where their
    number is even. vocab_size: at most so many tokens, special ones among them. max_length: positions, in tokens.
    initializer_range: std of the random weights; about hidden**-0.5 where it shall be trained from scratch, since the
    usual 0.02 suits widths in the thousands and leaves a narrow model on a plateau for hundreds of steps.
    The same texts, sizes and seed give the same files. Raises ValueError for sizes that do not fit each other.
    """
    heads = heads or max(2, hidden // 32)
    if hidden % heads or (hidden // heads) % 2:
        raise ValueError(f"hidden={hidden} must be an even multiple of heads={heads}")
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"vocab_size={vocab_size} must be {MIN_VOCAB_SIZE} or more: one token a byte")
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, max_length=max_length, chat_template=chat_template)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        head_dim=hidden // heads,
        max_position_embeddings=max_length,
        initializer_range=initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, max_length: int, chat_template: str | None = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with <pad>, <eos> and one special token for each role's turn."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, model_max_length=max_length
    )
    fast.chat_template = chat_template
    return fast
