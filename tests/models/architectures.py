"""Tiny, randomly initialised models of many architectures, with attention that matters. Used by the models' tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

VOCAB = 61
_SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_NO_GROUPS = {k: v for k, v in _SMALL.items() if k not in ("num_key_value_heads", "head_dim")}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MLA = {
    **_SMALL,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


@dataclass(frozen=True)
class Architecture:
    """name: transformers' model_type. refused: words of the announced reason, or "" where packed is exact."""

    name: str
    fields: dict[str, Any]
    refused: str = ""


ARCHITECTURES = (
    Architecture("llama", _SMALL),
    Architecture("qwen2", _SMALL),
    Architecture("qwen3", _SMALL),
    Architecture("qwen3_moe", {**_SMALL, **_MOE}),
    Architecture("mistral", {**_SMALL, "sliding_window": 64}),
    Architecture("mixtral", {**_SMALL, "num_local_experts": 4, "sliding_window": 64}),
    Architecture("gemma", _SMALL),
    Architecture(
        "gemma3_text", {**_SMALL, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
    ),
    Architecture("phi", _NO_GROUPS),
    Architecture("phi3", {**_SMALL, "pad_token_id": 0}),
    Architecture("olmo2", _SMALL),
    Architecture("olmo3", {**_SMALL, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}),
    Architecture("glm4", _SMALL),
    Architecture("starcoder2", _SMALL),
    Architecture("deepseek_v3", _MLA),
    Architecture("gpt2", _GPT2),
    Architecture("gpt_neox", _NO_GROUPS),
    Architecture("opt", {**_NO_GROUPS, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    Architecture("gemma2", {**_SMALL, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0}, "softcap"),
    Architecture(
        "qwen3_next", {**_SMALL, **_MOE, "layer_types": ["linear_attention", "full_attention"]}, "linear_attention"
    ),
    Architecture("gpt_oss", {**_SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}, "eager"),
    Architecture("bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "AttentionInterface"),
    Architecture("falcon", {**_NO_GROUPS, "alibi": False}, "AttentionInterface"),
    Architecture("stablelm", _SMALL, "AttentionInterface"),
    Architecture("bert", _NO_GROUPS, "head of its own"),
)


def build(architecture: Architecture, *, seed: int = 0, scale: float = 8.0, **fields: Any) -> PreTrainedModel:
    """The model in eval mode, one label; Q and K weights times `scale`, so that attention is far from uniform."""
    config = AutoConfig.for_model(
        architecture.name,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **architecture.fields, **fields},
        num_labels=1,
    )
    for field in set(vars(config)) - set(fields):
        if ("dropout" in field and isinstance(getattr(config, field), float)) or field.endswith("_pdrop"):
            setattr(config, field, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and any(x in name for x in ("q_proj", "k_proj", "qkv", "c_attn", "query", "key")):
                    parameter.mul_(scale)
                if name in ("score.weight", "classifier.weight", "bert.pooler.dense.weight"):
                    parameter.normal_()
    return model.eval()
