"""Ask a causal language model in this process: a JudgeBackend on transformers. The files are safetensors, no code runs.

The model's chat template is used where it has one; else the question is plain text that ends with its cue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from rmray.data.render.chat import ChatTemplate
from rmray.data.tokenizer import load_tokenizer, tokenizer_hash
from rmray.errors import ModelError, RowError
from rmray.models.base import check_dtype, quiet_loading
from rmray.models.files import check_safetensors, first_line, read_config
from rmray.models.judge.backend import Choices, Question, Reply
from rmray.models.judge.verdict_tokens import Verdict, verdict_of
from rmray.schema import ScoreFailure

LONGEST = 32_768
"""Tokens of a question where neither the config nor the model says a length."""


@dataclass(frozen=True, slots=True)
class Described:
    """What names a local model in a judge's version, as of `JudgeBackend`: its weights need not be loaded for it."""

    identity: str
    tokenizer_hash: str
    special_tokens: frozenset[str]


def describe(model: str, dtype: torch.dtype) -> Described:
    """The model as `CausalLM` would name itself. Its weight files are hashed. Raises ModelError."""
    return _described(model, dtype, load_tokenizer(model))


def _described(model: str, dtype: torch.dtype, tokenizer: Any) -> Described:
    specials = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    turns = set() if tokenizer.chat_template is None else ChatTemplate(tokenizer).turn_tokens()
    # A directory is named by what it holds: the same files are the same judge wherever they lie.
    weights = weights_hash(model)
    name = Path(model).expanduser().resolve().name if weights else model
    return Described(
        identity=" ".join(filter(None, (name, weights, str(dtype).removeprefix("torch.")))),
        tokenizer_hash=tokenizer_hash(tokenizer),
        special_tokens=frozenset({*specials, *map(str, tokenizer.all_special_tokens), *turns}),
    )


class CausalLM:
    """model: a directory or Hub id. dtype: of its weights. max_length: longest question, None for what the model takes.

    max_batch_tokens: in one forward, padding included. Raises ModelError where the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        max_length: int | None = None,
        max_batch_tokens: int = 16384,
        system_role: bool = True,
    ) -> None:
        self.device, self._where = torch.device(device), model
        check_dtype(dtype, self.device)
        self._tokenizer = load_tokenizer(model)
        self._model: Any = _load(model, dtype).to(self.device).eval()
        self._template = ChatTemplate(self._tokenizer)
        self._chat, self._system_role = self._tokenizer.chat_template is not None, system_role
        positions = getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
        self.max_length = min(max_length or positions, positions)
        self._max_batch_tokens = max_batch_tokens
        described = _described(model, dtype, self._tokenizer)
        self.identity, self.tokenizer_hash = described.identity, described.tokenizer_hash
        self.special_tokens = described.special_tokens
        self._verdict_ids: list[int] = []
        self._verdict_texts: list[str] = []

    def prepare(self, verdicts: Sequence[Verdict]) -> None:
        """Find the tokens of each verdict: every token whose text is one, white space aside (`A`, ` A`).

        Raises ModelError where a verdict is no single token, or where the chat template refuses a question.
        """
        size = min(len(self._tokenizer), int(self._model.config.get_text_config().vocab_size))
        texts = self._tokenizer.batch_decode([[i] for i in range(size)])
        found = [(i, v) for i, text in enumerate(texts) if (v := verdict_of(text, verdicts))]
        missing = [v.name for v in verdicts if all(v is not known for _, known in found)]
        if missing:
            raise ModelError(
                f"the tokenizer writes the verdict {missing[0]!r} as several tokens",
                where=self._where,
                why="a verdict is read from the probabilities of single tokens, and part of one is another's",
                next_step="set judge.scale to 0-9, or to yes-no" if missing[0].isdigit() else "take another model",
            )
        self._verdict_ids, self._verdict_texts = [i for i, _ in found], [v.name for _, v in found]
        try:
            self.render(Question("Do as you are asked.", "Reply with A."))
        except RowError as error:
            raise ModelError(
                "the model's chat template refuses the judge's question",
                where=self._where,
                why=error.why,
                next_step="set judge.system_role to false, for templates without system messages",
            ) from error

    def render(self, question: Question) -> list[int]:
        """Token ids of a question, up to where the verdict begins. Raises RowError `template_failed`."""
        if not self._chat:
            text = f"{question.instructions}\n\n{question.material}"
            ids = list(self._tokenizer(text)["input_ids"])
            return ids[:-1] if len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id else ids
        turns = question.messages(system_role=self._system_role)
        # Reasoning models write their verdict after their thoughts; templates that know no switch pass over it.
        text = self._template.write(turns, None, add_generation_prompt=True, enable_thinking=False)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """Batches by tokens, long with long. A question alone fails with `over_length` or `template_failed`."""
        ids_of: dict[int, list[int]] = {}
        replies: list[Reply | None] = [None] * len(questions)
        for i, question in enumerate(questions):
            ids = self._checked_ids(question)
            if isinstance(ids, ScoreFailure):
                replies[i] = ids
            else:
                ids_of[i] = ids
        todo = list(ids_of)
        for batch in _padded_batches([len(ids) for ids in ids_of.values()], self._max_batch_tokens):
            places = [todo[n] for n in batch]
            logprobs_NV = self.next_logprobs([ids_of[i] for i in places])[:, self._verdict_ids].tolist()
            for i, row in zip(places, logprobs_NV, strict=True):
                replies[i] = Choices(tuple(zip(self._verdict_texts, row, strict=True)), complete=True)
        return [reply for reply in replies if reply is not None]

    def _checked_ids(self, question: Question) -> list[int] | ScoreFailure:
        try:
            ids = self.render(question)
        except RowError as error:  # not its why: a template may repeat the text that it refuses
            return ScoreFailure(code=error.code, message=error.what)
        if len(ids) > self.max_length:
            message = f"the question has {len(ids)} tokens, {self.max_length} at most"
            return ScoreFailure(code="over_length", message=message)
        return ids

    @torch.inference_mode()
    def next_logprobs(self, ids_N: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log-probabilities of every next token, in float32 [N, vocabulary]. Padded on the left, as generation does."""
        longest = max(map(len, ids_N))
        tokens_NT = torch.zeros((len(ids_N), longest), dtype=torch.long)
        mask_NT = torch.zeros_like(tokens_NT)
        for n, ids in enumerate(ids_N):
            tokens_NT[n, longest - len(ids) :] = torch.tensor(ids)
            mask_NT[n, longest - len(ids) :] = 1
        logits_N1V = self._model(
            input_ids=tokens_NT.to(self.device),
            attention_mask=mask_NT.to(self.device),
            position_ids=(mask_NT.cumsum(1) - 1).clamp(min=0).to(self.device),
            use_cache=False,
            logits_to_keep=1,
        ).logits
        logprobs_NV: torch.Tensor = logits_N1V[:, -1].float().log_softmax(-1)
        return logprobs_NV


def _padded_batches(num_tokens: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches whose tokens, each padded to the longest of its batch, are within the limit."""
    order = sorted(range(len(num_tokens)), key=lambda i: -num_tokens[i])
    while order:
        size = max(1, max_batch_tokens // num_tokens[order[0]])
        yield order[:size]
        order = order[size:]


def weights_hash(model: str) -> str:
    """12 hex digits of a local directory's weight files; empty for a Hub id, whose name has to do."""
    import hashlib

    directory = Path(model).expanduser()
    if not directory.is_dir():
        return ""
    whole = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]


def _load(name: str, dtype: torch.dtype) -> Any:
    read_config(name)
    check_safetensors(name)
    try:
        with quiet_loading():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            "the model cannot be loaded as a causal language model",
            where=name,
            why=first_line(error),
            next_step="give safetensors weights of an architecture that has AutoModelForCausalLM",
        ) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{len(missing)} weight(s) of the language model are not in its files, {missing[0]} first",
            where=name,
            why="a classifier or a reward model has no head that writes text",
            next_step="give a model that was trained to write, such as an instruct model",
        )
    return model
