"""Freeze the base model, or its embedding and first layers. Called by training, on the model that was loaded.

A frozen weight has no gradient and no moments, and does not decay. Autograd records nothing below the first weight that
is trained, so the backward pass ends there and no activation below is kept.
"""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedModel

from rmray.errors import ModelError
from rmray.models.depth import depths, head_names


def freeze(model: PreTrainedModel, what: Literal["backbone"] | int) -> None:
    """what: `backbone`, all but the head; or N, the embedding and the first N layers, 0 for the embedding alone.

    Raises ModelError where the model has fewer layers, or is no single stack of them.
    """
    if what == "backbone":
        kept = head_names(model)
        frozen = {name for name, _ in model.named_parameters() if name not in kept}
    else:
        depth_of, num_layers = depths(model)
        if what > num_layers:
            raise ModelError(
                f"model.freeze is {what}, and the model has {num_layers} layers",
                where=type(model).__name__,
                next_step=f"freeze {num_layers} layers at most, or `backbone`: all but the head",
            )
        frozen = {name for name, depth in depth_of.items() if depth <= what}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
