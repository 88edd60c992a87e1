"""Run the last layer's feed-forward at the last tokens alone, where scores are read, in packed forwards. Called by
`backbone`.

Nothing after the last layer looks at any other token, so its feed-forward, most of what a layer computes, is wasted on
them: of four layers a fifth of all operations, of 28 layers a thirtieth. Attention is left whole, since keys and values
of all tokens are needed. Scores and gradients are the same.
"""

from __future__ import annotations

import threading
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
    restriction = _Restriction()
    for name, child in layers[-1].named_children():
        if name == "mlp":
            child.register_forward_pre_hook(restriction.gather)
            child.register_forward_hook(restriction.scatter)
        else:
            child.register_forward_pre_hook(restriction.hear, with_kwargs=True)
    return True


class _Restriction:
    """Hooks on the last layer's attention, which is told of the call, and on its feed-forward, which is not.

    On the attention and not on the layer: gradient checkpointing runs a layer again without the layer's own hooks, and
    by then other forwards may have been made. What was heard is one thread's, and forgotten once the feed-forward has
    run.
    """

    def __init__(self) -> None:
        self._calls: dict[int, PackedCall] = {}  # by thread

    def hear(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        call = kwargs.get(CALL)
        if isinstance(call, PackedCall) and call.last_tokens_S is not None:
            self._calls[threading.get_ident()] = call
        elif call is not None:
            self._calls.pop(threading.get_ident(), None)

    def gather(self, mlp: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        call = self._calls.get(threading.get_ident())
        if call is None:
            return None
        assert call.last_tokens_S is not None
        states_1TH, *others = args
        return states_1TH.index_select(1, call.last_tokens_S), *others

    def scatter(self, mlp: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        call = self._calls.pop(threading.get_ident(), None)
        if call is None:
            return None
        if isinstance(output, tuple):  # a mixture of experts may give its router's logits too
            return _at_last_tokens(output[0], call), *output[1:]
        return _at_last_tokens(output, call)


def _at_last_tokens(output_1SH: torch.Tensor, call: PackedCall) -> torch.Tensor:
    """[1, T, H], zero but for the last tokens."""
    assert call.last_tokens_S is not None
    whole_1TH = output_1SH.new_zeros(1, call.num_tokens, output_1SH.shape[2])
    return whole_1TH.index_copy(1, call.last_tokens_S, output_1SH)
