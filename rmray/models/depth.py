"""Where in a model each parameter lies: embedding, layer or head. Used to freeze, and for layer-wise learning rates."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from rmray.errors import ModelError
from rmray.models.guards import text_config


def head_names(model: PreTrainedModel) -> set[str]:
    """Parameters outside the base model, and its pooler: what a base that was only pretrained has no weights for."""
    base = {id(p) for name, p in model.base_model.named_parameters() if "pooler" not in name}
    return {name for name, p in model.named_parameters() if id(p) not in base}


def depths(model: PreTrainedModel) -> tuple[dict[str, int], int]:
    """Parameter -> 0 for the embedding, 1 to L for its layer, L + 1 for what lies above them; and L.

    Above the layers lie the head and the last norm. Raises ModelError where the model is no single stack of layers.
    """
    stack, layers = _stack_of_layers(model)
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}

    def depth(name: str) -> int:
        if name.startswith(f"{stack}."):
            return 1 + int(name.removeprefix(f"{stack}.").split(".")[0])
        # An embedding's own norm and projection lie in a module called so.
        is_embedding = any(name.startswith(f"{module}.") for module in embeddings) or "embed" in name
        return 0 if is_embedding else len(layers) + 1

    return {name: depth(name) for name, _ in model.named_parameters()}, len(layers)


def _stack_of_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Name and module of the list that holds the model's layers, the outermost of its length."""
    config: Any = text_config(model)
    number = getattr(config, "num_hidden_layers", None)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if config.is_encoder_decoder or not found:
        raise ModelError(
            "the model is no single stack of layers",
            where=type(model).__name__,
            next_step="leave out model.freeze: N and optim.layer_decay, which count layers",
        )
    return min(found, key=lambda item: item[0].count("."))
