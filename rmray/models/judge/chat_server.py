"""Ask any OpenAI-compatible server (vLLM, Ray Serve LLM, a hosted API): a JudgeBackend over /v1/chat/completions.

Asks for one token with its likeliest rivals at temperature 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rmray.errors import ModelError, RequestError
from rmray.models.judge.backend import Choices, Question, Reply, Spoken
from rmray.models.judge.verdict_tokens import Verdict
from rmray.models.model_server import ModelServer, failure_of

PREPARE_TIMEOUT_S = 30.0
TEXT_TOKENS = 8
"""Tokens of an answer that is read as text: enough to see that it goes on after the verdict."""
LEAST_LOGPROB = -100.0
"""Servers write minus infinity in many ways (-9999, null): none of them is less than this."""
NO_LOGPROBS = "no_logprobs"


class ChatServer:
    """url: with or without /v1. model: its name there. text: read the answer's text, of a server that gives no
    log-probabilities. special_tokens: of its tokenizer, which is not known here. extra_body: more fields of each
    request. options: of ModelServer.
    """

    tokenizer_hash = ""
    max_length = 0

    def __init__(
        self,
        url: str,
        model: str,
        *,
        top_logprobs: int = 20,
        text: bool = False,
        system_role: bool = True,
        special_tokens: Iterable[str] = (),
        extra_body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.identity = model
        self._server = ModelServer(url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions", **options)
        self.special_tokens = frozenset(special_tokens)
        self._text, self._system_role = text, system_role
        self._gave_logprobs = False
        self._body: dict[str, Any] = {**(extra_body or {}), "model": model, "temperature": 0}
        self._body |= {"max_tokens": TEXT_TOKENS if text else 1}
        if not text:
            self._body |= {"logprobs": True, "top_logprobs": top_logprobs}

    def __repr__(self) -> str:
        return f"ChatServer({self._server.url!r}, {self.identity!r})"

    def prepare(self, verdicts: Sequence[Verdict]) -> None:
        """One question that shows that address, key and model are right, before thousands are asked.

        Where one verdict begins like another (`1` and `10`) it also shows that the longer one is a single token: else
        its probability would be found on the shorter one. Raises RequestError or ModelError.
        """
        longest = max((v.name for v in verdicts), key=len)
        question = Question("Do as you are asked.", f"Reply with exactly this and nothing else: {longest}")
        reply = self._answer(question, timeout_s=min(self._server.timeout_s, PREPARE_TIMEOUT_S))
        begins = [v.name for v in verdicts if v.name != longest and longest.startswith(v.name)]
        if not begins or not isinstance(reply, Choices):
            return
        likeliest = self._server.redacted(max(reply.tokens, key=lambda token: token[1])[0].strip())
        if likeliest != longest:
            raise ModelError(
                f"the verdict {longest!r} is not shown to be a single token of {self.identity}",
                where=self._server.url,
                why=f"asked for {longest!r}, the model begins with {likeliest[:8]!r}: what is meant for {longest!r} "
                f"might count for {begins[0]!r}",
                next_step="set judge.scale to 0-9, or to yes-no",
            )

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """All questions, some at a time. Raises RequestError for what no question escapes; others fail alone.

        A server that has answered is trusted to do so again: a refusal then fails alone too (`raise_if_fatal`).
        """
        return self._server.map(self._one, questions)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def _one(self, question: Question) -> Reply:
        try:
            return self._answer(question)
        except RequestError as error:
            self._server.raise_if_fatal(error)
            if error.code == NO_LOGPROBS and not self._gave_logprobs:
                raise
            return failure_of(error)

    def _answer(self, question: Question, *, timeout_s: float | None = None) -> Reply:
        body = {**self._body, "messages": question.messages(system_role=self._system_role)}
        text, tokens = read_reply(self._server.post(body, timeout_s=timeout_s), self._server.url)
        if self._text:
            return Spoken(text)
        if not tokens:
            raise RequestError(
                NO_LOGPROBS,
                "the server gives no log-probabilities",
                where=self._server.url,
                next_step="set judge.verdicts to text, or take a server that gives them (vLLM does)",
            )
        self._gave_logprobs = True
        return Choices(tokens, complete=False)


def read_reply(content: bytes, url: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """(text, likeliest first tokens with their log-probabilities) of a chat completion; none where it gives none.

    Raises RequestError `bad_response` for anything that is no chat completion.
    """
    try:
        choice = json.loads(content)["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise TypeError("content")
        first = ((choice.get("logprobs") or {}).get("content") or [None])[0]
        return text, () if first is None else _tokens(first)
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        raise RequestError(
            "bad_response", "the server's answer is no chat completion", where=url, next_step="check judge.url"
        ) from None


def _tokens(first: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    entries = list(first.get("top_logprobs") or ())
    if not any(entry["token"] == first["token"] for entry in entries):
        entries.append(first)
    return tuple((_text(entry["token"]), _logprob(entry["logprob"])) for entry in entries)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("token")
    return value


def _logprob(value: Any) -> float:
    if isinstance(value, bool | str):
        raise TypeError("logprob")
    number = LEAST_LOGPROB if value is None else float(value)
    if math.isnan(number) or number > 0.01:
        raise ValueError("no logarithm of a probability")
    return min(0.0, max(LEAST_LOGPROB, number))
