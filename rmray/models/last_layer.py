"""Run the last layer's feed-forward at the last tokens alone, where scores are read, in packed forwards. Called by
`backbone`.

Nothing after the last layer looks at any other token, so its feed-forward, most of what a layer computes, is wasted on
them: of four layers a fifth of all operations, of 28 layers a thirtieth. Attention is left whole, since keys and values
of all tokens are needed. Scores and gradients are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rmray.models.attention import CALL, PackedCall


def restrict_last_layer(model: PreTrainedModel) -> bool:
    """Have the last layer's `mlp` leave zeros where a PackedCall does not read; whether there is such a layer.

    Forwards without a PackedCall are as before. A feed-forward sees one token at a time; where a model's does not,
    `check_packed` finds that its states differ.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers) or not hasattr(layers[-1], "mlp"):
        return False
    _Restriction(layers[-1], layers[-1].get_submodule("mlp"))
    return True


class _Restriction:
    """Hooks on the layer, which is told of the call, and on its feed-forward, which is not.

    A layer that gradient checkpointing runs again in the backward pass is told of its own call again.
    """

    def __init__(self, layer: nn.Module, mlp: nn.Module) -> None:
        self._tokens_S: torch.Tensor | None = None
        self._num_tokens = 0
        layer.register_forward_pre_hook(self._enter, with_kwargs=True)
        mlp.register_forward_pre_hook(self._gather)
        mlp.register_forward_hook(self._scatter)

    def _enter(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        call = kwargs.get(CALL)
        self._tokens_S = call.last_tokens_S if isinstance(call, PackedCall) else None
        self._num_tokens = call.num_tokens if isinstance(call, PackedCall) else 0

    def _gather(self, mlp: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._tokens_S is None:
            return None
        states_1TH, *others = args
        return states_1TH.index_select(1, self._tokens_S), *others

    def _scatter(self, mlp: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._tokens_S is None:
            return None
        if isinstance(output, tuple):  # a mixture of experts may give its router's logits too
            return self._whole(output[0]), *output[1:]
        return self._whole(output)

    def _whole(self, output_1SH: torch.Tensor) -> torch.Tensor:
        assert self._tokens_S is not None
        whole_1TH = output_1SH.new_zeros(1, self._num_tokens, output_1SH.shape[2])
        return whole_1TH.index_copy(1, self._tokens_S, output_1SH)
