"""Open the judge that a config names: its backend, its version, and the source of scores it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rmray.config import load_config
from rmray.config.judge import JudgeConfig, JudgeSection
from rmray.models.judge.backend import JudgeBackend
from rmray.models.judge.group import MAX_LOG_ODDS
from rmray.models.judge.judge import PairwiseJudge, PointwiseJudge
from rmray.models.judge.neutral import PATTERNS
from rmray.models.judge.prompt import template_text
from rmray.models.judge.verdict_tokens import PAIR_VERDICTS, READ_VERSION, SCALES, TEXT_CERTAINTY
from rmray.models.model_server import api_key_from

if TYPE_CHECKING:
    import torch

Judge = PairwiseJudge | PointwiseJudge


def open_judge(path: str | Path, *, environment: Mapping[str, str] = os.environ) -> Judge:
    """The judge of a config file, ready to score: its model is loaded, or its server has answered.

    Raises ConfigError, ModelError, and RequestError where the server cannot be asked.
    """
    config = load_config(JudgeConfig, path).judge
    return build_judge(config, open_backend(config, environment=environment))


def build_judge(config: JudgeSection, backend: JudgeBackend) -> Judge:
    """The judge over a backend, which is made ready for its verdicts."""
    backend.prepare(PAIR_VERDICTS if config.mode == "pairwise" else SCALES[config.scale])
    name, version = f"judge:{Path(config.model).name}", judge_version(config, backend)
    if config.mode == "pairwise":
        return PairwiseJudge(
            backend,
            name=name,
            model_version=version,
            rubric=config.rubric,
            min_verdict_mass=config.min_verdict_mass,
            max_answers=config.max_answers,
        )
    return PointwiseJudge(
        backend,
        name=name,
        model_version=version,
        rubric=config.rubric,
        scale=config.scale,
        min_verdict_mass=config.min_verdict_mass,
    )


class Named(Protocol):
    """What a version takes of a JudgeBackend, which may not be open yet."""

    @property
    def identity(self) -> str: ...
    @property
    def tokenizer_hash(self) -> str: ...
    @property
    def special_tokens(self) -> frozenset[str]: ...


def judge_version(config: JudgeSection, backend: Named) -> str:
    """16 hex digits of everything that decides a verdict: the words, the rubric, how it is read, and the model's name.

    A server may put other weights behind a name, and this cannot tell. The weights of a local directory are hashed, and
    a local model's identity has its dtype.
    """
    fields = ("mode", "scale", "rubric", "verdicts", "min_verdict_mass", "system_role", "top_logprobs", "extra_body")
    decisive = {name: getattr(config, name) for name in fields}
    decisive |= {"words": template_text(config.mode, config.scale), "model": backend.identity}
    decisive |= {"tokenizer": backend.tokenizer_hash, "special_tokens": sorted(backend.special_tokens)}
    decisive |= {"read": [READ_VERSION, TEXT_CERTAINTY, MAX_LOG_ODDS], "defused": PATTERNS}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def describe_backend(config: JudgeSection) -> Named:
    """What names the backend, without asking a server or loading weights. Raises ModelError."""
    if config.backend == "openai":
        return open_backend(config.model_copy(update={"api_key_env": None}))
    from rmray.models.bundle.load import default_device
    from rmray.models.judge.causal_lm import describe

    return describe(config.model, _dtype(config, default_device()))


def _dtype(config: JudgeSection, device: torch.device) -> torch.dtype:
    import torch

    from rmray.models.bundle.load import default_dtype

    dtype: torch.dtype = default_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)
    return dtype


def open_backend(
    config: JudgeSection,
    *,
    environment: Mapping[str, str] = os.environ,
    device: torch.device | None = None,
    together: bool = False,
) -> JudgeBackend:
    """The backend that the config names, not yet prepared.

    device: of a local model, None for a GPU where there is one. together: see `ModelServer`.
    """
    if config.backend == "openai":
        from rmray.models.judge.chat_server import ChatServer

        assert config.url is not None  # the config has been checked
        return ChatServer(
            config.url,
            config.model,
            api_key=api_key_from(config.api_key_env, environment, where="judge.api_key_env"),
            timeout_s=config.timeout_s,
            concurrency=config.concurrency,
            top_logprobs=config.top_logprobs,
            text=config.verdicts == "text",
            system_role=config.system_role,
            special_tokens=config.special_tokens,
            extra_body=config.extra_body,
            together=together,
        )
    from rmray.models.bundle.load import default_device
    from rmray.models.judge.causal_lm import CausalLM

    device = device or default_device()
    return CausalLM(
        config.model,
        dtype=_dtype(config, device),
        device=device,
        max_length=config.max_length,
        max_batch_tokens=config.max_batch_tokens,
        system_role=config.system_role,
    )
