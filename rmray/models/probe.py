"""Compare the packed forward with the padded one and with plain transformers, once, on the real weights.

Called after loading by the training engine and by the bundle: what the guards cannot see in a model's structure (a
layer that mixes tokens, positions that are ignored) shows here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rmray.data.batch import TOKEN_READOUTS, FlatBatch, build_batch
from rmray.data.group import TokenGroup
from rmray.errors import ModelError
from rmray.models import guards
from rmray.models.padded import padded_inputs

if TYPE_CHECKING:
    from rmray.models.backbone import RewardBackbone

# Largest distance of two forwards, relative to the norm of the hidden states. Measured: fp32 forwards of sound models
# differ by 1e-6, a wrong mask moves them by 1e-2 and more; bf16 rounds at 4e-3 a layer's output.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def check_packed(backbone: RewardBackbone, *, seed: int = 0) -> bool:
    """Fall back to the padded forward, announced, where the packed one differs on a probe; whether it is packed.

    Every rank must call it together where parameters are sharded: it runs the model, three times at most. Raises
    ModelError where `packed: true` was asked for and differs, and where plain transformers reads the score in another
    way than rmray, which no fallback mends.
    """
    model = backbone.model
    if not guards.has_score_head(model):
        return False
    embedding: Any = model.get_input_embeddings()
    pad_id = guards.text_config(model).pad_token_id
    batch = probe_batch(
        embedding.num_embeddings,
        pad_id=pad_id,
        longest=min(40, guards.sliding_window(model) or 40),
        pooling="tokens" if backbone.pooling in TOKEN_READOUTS else backbone.pooling,
        seed=seed,
    ).to(embedding.weight.device)
    tolerance = TOLERANCE[embedding.weight.dtype]
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            padded_RH = backbone.padded_states(batch)
            if backbone.packed:
                _compare_packed(backbone, batch, padded_RH, tolerance)
            if backbone.pooling in ("last", *TOKEN_READOUTS) and pad_id is not None:
                _compare_plain(backbone, batch, padded_RH, tolerance)
    finally:
        model.train(was_training)
    return backbone.packed


def probe_batch(
    vocab_size: int, *, pad_id: int | None, longest: int = 40, pooling: str = "last", seed: int = 0
) -> FlatBatch:
    """Three groups of random tokens, none of them padding: K = 3 with a long prefix, K = 1 without, K = 2."""
    rng = np.random.default_rng(seed)
    allowed = np.array([i for i in range(vocab_size) if i != pad_id])

    def ids(share: float) -> np.ndarray:
        return rng.choice(allowed, size=max(1, int(share * longest))).astype(np.int32)

    groups = [
        TokenGroup(ids(0.6), (ids(0.25), ids(0.1), ids(0.4)), (2, 2, 2)),
        TokenGroup(np.zeros(0, np.int32), (ids(0.5),), (0,)),
        TokenGroup(ids(0.2), (ids(0.7), ids(0.3)), (1, 1)),
    ]
    return build_batch(groups, pooling=pooling)


def _compare_packed(backbone: RewardBackbone, batch: FlatBatch, padded_RH: torch.Tensor, tolerance: float) -> None:
    try:
        packed_RH = backbone.packed_states(batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture does with a flat batch: the padded forward has just run
        backbone.refuse_packed(f"the packed forward raised {type(error).__name__}: {error}")
        return
    distance = relative_distance(packed_RH, padded_RH)
    if not distance <= tolerance:
        backbone.refuse_packed(f"packed and padded hidden states differ by {distance:.1e} of their norm")


def _compare_plain(backbone: RewardBackbone, batch: FlatBatch, padded_RH: torch.Tensor, tolerance: float) -> None:
    model = backbone.model
    input_ids_NL, mask_NL = padded_inputs(batch, backbone.pad_id)
    with backbone.plain_attention():
        plain = model(input_ids=input_ids_NL, attention_mask=mask_NL).logits.float()
    if backbone.pooling in TOKEN_READOUTS:
        plain = plain[batch.readout_paths_R, batch.positions_T[batch.readout_tokens_R]]
    score = model.get_submodule("score")
    ours = score(padded_RH).float()
    # Relative to the scores of random states of the same size: one score may be near zero by cancellation.
    generator = torch.Generator().manual_seed(0)
    random_RH = torch.randn((64, padded_RH.shape[1]), generator=generator).to(padded_RH)
    scale = float(score(random_RH * padded_RH.float().pow(2).mean().sqrt().to(padded_RH)).float().std())
    distance = float((plain - ours).abs().max()) / max(scale, 1e-12)
    if not distance <= tolerance:
        raise ModelError(
            "plain transformers reads another score from this model than its `score` at the tokens that are read",
            where=type(model).__name__,
            why=f"they differ by {distance:.1e} on a probe",
            next_step="this architecture is not supported as a reward model",
        )


def relative_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest ||a - b|| / ||b|| over the rows; NaN where either holds one."""
    a, b = a.float(), b.float()
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-12)).max())
