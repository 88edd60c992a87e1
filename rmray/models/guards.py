"""Decide from a model's structure whether the packed forward is exact on it, and how it reads its score. Pure.

Called by `backbone`. What structure cannot tell, `backbone.check_packed` finds on the real weights.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from rmray.errors import ModelError
from rmray.models.heads import HEADS, SCALAR

PACKABLE_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def packed_refusal(model: PreTrainedModel) -> str:
    """Why `model` takes the padded forward, or "" where its structure allows the packed one."""
    config = text_config(model)
    if getattr(config, "attn_logit_softcapping", None):
        return "attention with a softcap is not computed over shared prefixes"
    if not has_score_head(model):
        return f"{type(model).__name__} has a classification head of its own, not a `score` over its last hidden state"
    if not is_causal(model):
        return f"{type(model).__name__} is not a causal model"
    odd = sorted(set(getattr(config, "layer_types", None) or ()) - PACKABLE_LAYER_TYPES)
    if odd:
        return f"layers of type {', '.join(odd)} mix tokens in another way than causal attention"
    if not model._supports_attention_backend:
        return f"the attention of {type(model).__name__} cannot be exchanged through transformers' AttentionInterface"
    if config._attn_implementation == "eager":
        return f"{type(model).__name__} runs with eager attention only"
    if any(isinstance(m, _CONVOLUTIONS) for m in model.modules()):
        return "convolutions mix neighbouring tokens"
    for field in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"):
        if getattr(config, field, None):
            return f"attention dropout ({field}: {getattr(config, field)}) is not computed over shared prefixes"
    return ""


def sliding_window(model: PreTrainedModel) -> int | None:
    """Tokens that a query sees at most, itself among them, or None where it sees all before it."""
    config = text_config(model)
    layer_types = getattr(config, "layer_types", None)
    if layer_types and "sliding_attention" not in layer_types:
        return None
    return getattr(config, "sliding_window", None)


def is_causal(model: PreTrainedModel) -> bool:
    """True where a token sees only those before it, so that the first token's state says nothing of the sequence."""
    config = text_config(model)
    if config.is_encoder_decoder or not getattr(config, "is_causal", True):
        return False
    if any(getattr(m, "is_causal", True) is False for m in model.modules()):
        return False
    kind = config.model_type
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(config, "is_decoder", False))
    # A text model inside a larger one (`gemma3_text`) is listed under the larger one's name in some versions.
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind.removesuffix("_text") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def has_score_head(model: PreTrainedModel) -> bool:
    """True for a base model plus one Linear named `score`, as transformers' GenericForSequenceClassification and
    GenericForTokenClassification are."""
    if text_config(model).is_encoder_decoder:
        return False
    return isinstance(getattr(model, "score", None), nn.Linear) and model.base_model is not model


def natural_pooling(model: PreTrainedModel) -> str:
    """Where `model`, called as plain transformers does, reads its score: `last`, `first` or `mean`."""
    config: Any = text_config(model)
    if has_score_head(model) or config.is_encoder_decoder or is_causal(model):
        return "last"
    named = getattr(config, "classifier_pooling", None) or getattr(config, "summary_type", None)
    return named if named in ("last", "mean") else "first"


def check_pooling(model: PreTrainedModel, pooling: str) -> None:
    """Raise ModelError where `pooling` cannot be read from `model`."""
    name, natural = type(model).__name__, natural_pooling(model)
    if pooling not in HEADS:
        raise ValueError(f"unknown pooling {pooling!r}")
    if HEADS[pooling] is not SCALAR:
        if not has_score_head(model):
            raise ModelError(
                f"tokens of a {name} cannot be judged one by one",
                where=name,
                why="its head is no single linear layer over the last hidden state",
                next_step="take a decoder of an architecture that has AutoModelForTokenClassification",
            )
        return
    if pooling == "first" and is_causal(model):
        raise ModelError(
            "pooling `first` gives the same score to everything",
            where=name,
            why="in a causal model the first token sees nothing of the text that follows",
            next_step="set model.pooling to last (or mean)",
        )
    if not has_score_head(model) and pooling != natural:
        raise ModelError(
            f"pooling `{pooling}` does not fit the model's own classification head",
            where=name,
            why=f"its head reads `{natural}`",
            next_step=f"set model.pooling to {natural}",
        )


def text_config(model: PreTrainedModel) -> Any:
    """The config of the text model (of a model that also sees images, its text part)."""
    return model.config.get_text_config()
