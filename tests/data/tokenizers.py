"""Small tokenizers for the data suites: byte-level BPE in the manners of the families that differ."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "What is two plus three? Two plus three is five.",
    "Please name the capital of France. The capital of France is Paris.",
    "user assistant system question answer because the a of and in it",
) * 3

QWEN_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|header|>' + m['role'] + '<|end_header|>\n\n' + (m['content'] | trim) + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header|>assistant<|end_header|>\n\n' }}{% endif %}"
)
PLAIN_TEMPLATE = (  # ends no turn with a special token
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def byte_level(specials: list[str], **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 300 tokens; `names` are special tokens such as eos_token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def qwen_like() -> PreTrainedTokenizerFast:
    """Turns end with the EOS and a line feed; a document end that is the pad."""
    tokenizer = byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = QWEN_TEMPLATE
    return tokenizer


def llama_like() -> PreTrainedTokenizerFast:
    """The tokenizer puts BOS before plain text, the template before chats."""
    specials = ["<|bos|>", "<|eot|>", "<|header|>", "<|end_header|>", "<|pad|>"]
    tokenizer = byte_level(specials, bos_token="<|bos|>", eos_token="<|eot|>", pad_token="<|pad|>")
    with_bos = processors.TemplateProcessing(single="<|bos|> $A", pair=None, special_tokens=[("<|bos|>", 0)])
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), with_bos]
    )
    tokenizer.chat_template = LLAMA_TEMPLATE
    return tokenizer


def plain_like() -> PreTrainedTokenizerFast:
    """<pad>, <eos>, and a template that ends no turn."""
    tokenizer = byte_level(["<pad>", "<eos>"], eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def bert_like() -> PreTrainedTokenizerFast:
    """An encoder: words, lower case, no EOS but [SEP], which the tokenizer appends itself."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
