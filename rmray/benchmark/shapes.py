"""Qwen3 shapes to measure on, and reward models of them with random weights. Called by all benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmray.benchmark.workloads import PAD_ID

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3's sizes, named as its config names them."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool = True


# The small ones are made for CPUs; the others are Qwen3-0.6B, -1.7B, -4B and -8B as published (Qwen3 technical report).
SHAPES = {
    "5m": Shape(256, 4, 768, 4, 2, 64, 8000),
    "30m": Shape(512, 8, 1536, 8, 4, 64, 8000),
    "0.6b": Shape(1024, 28, 3072, 16, 8, 128, 151936),
    "1.7b": Shape(2048, 28, 6144, 16, 8, 128, 151936),
    "4b": Shape(2560, 36, 9728, 32, 8, 128, 151936),
    "8b": Shape(4096, 36, 12288, 32, 8, 128, 151936, tie_word_embeddings=False),
}
MAX_POSITIONS = 40960


def qwen3_config(shape: Shape) -> Any:
    """The Qwen3Config of a shape, for one score."""
    from transformers import Qwen3Config

    sizes: dict[str, Any] = {name: getattr(shape, name) for name in Shape.__dataclass_fields__}
    config = Qwen3Config(
        **sizes,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        pad_token_id=PAD_ID,
        eos_token_id=1,
        bos_token_id=None,
    )
    config.num_labels = 1
    return config


def build_classifier(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype | None = None, device: str = "cpu", head_float32: bool = True
) -> Any:
    """A randomly initialised Qwen3ForSequenceClassification in eval mode, made on `device` in `dtype`.

    The same shape, seed, dtype and device give the same weights. head_float32: the head computes in float32, as rmray
    loads models; False is plain transformers.
    """
    import torch
    from transformers import Qwen3ForSequenceClassification

    from rmray.models.heads import set_head_float32

    dtype = dtype or torch.float32
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(seed)
        try:
            torch.set_default_dtype(dtype)
            with torch.device(device):
                model: Any = Qwen3ForSequenceClassification(qwen3_config(shape))
        finally:
            torch.set_default_dtype(before)
    model.to(dtype)
    if head_float32:
        set_head_float32(model)
        model.score.float()
    return model.eval()
