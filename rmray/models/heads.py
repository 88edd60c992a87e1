"""Heads: which class and how many labels a read-out needs, float32 whatever the base computes in, and their
reproducible first weights. Used by `base` and by the bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedConfig


@dataclass(frozen=True, slots=True)
class HeadClass:
    """suffix: of the transformers classes that have such a head. labels: names of its outputs."""

    suffix: str
    auto: Any
    labels: tuple[str, ...]

    @property
    def num_labels(self) -> int:
        return len(self.labels)


SCALAR = HeadClass("ForSequenceClassification", AutoModelForSequenceClassification, ("score",))
HEADS = {
    "last": SCALAR,
    "mean": SCALAR,
    "first": SCALAR,
    "tokens": HeadClass("ForTokenClassification", AutoModelForTokenClassification, ("right",)),
    "steps": HeadClass("ForTokenClassification", AutoModelForTokenClassification, ("wrong", "neutral", "right")),
}
"""By pooling. An outcome head gives a token the logit of being right, a process head a step one for each class."""


def readout_of(config: PreTrainedConfig) -> str | None:
    """`tokens` or `steps` for the config of such a token classifier, None for any other model."""
    kind = next(iter(config.architectures or ()), "")
    for readout in ("tokens", "steps"):
        if kind.endswith(HEADS[readout].suffix) and config.num_labels == HEADS[readout].num_labels:
            return readout
    return None


class Float32Linear(nn.Linear):
    """A Linear that computes in float32 and gives float32; it shares the parameters of the one it replaces."""

    def __init__(self, replaced: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = replaced.in_features, replaced.out_features
        self.weight, self.bias = replaced.weight, replaced.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # fp32: a bf16 head ties close pairs. The casts are here, and not at loading alone, because a training engine
        # may cast every parameter, and autocast is off because it would cast them back.
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return linear(input.float(), self.weight.float(), bias)


def initial_head_weight(shape: Sequence[int], seed: int) -> torch.Tensor:
    """[labels, hidden] float32 on the CPU, normal with std 1 / sqrt(hidden + 1): scores start near unit size.

    The initialisation of OpenAI's learning-to-summarize reward models. The same seed gives the same weights on every
    rank and at any number of workers.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32) / math.sqrt(shape[-1] + 1)


def find_head(model: nn.Module) -> tuple[str, nn.Linear]:
    """Name and module of a classifier's last Linear: `score`, `classifier`, `classifier.out_proj`, ...

    Raises LookupError where there is none outside the base model.
    """
    base = getattr(model, "base_model_prefix", "")
    named = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] != base
    ]
    if not named:
        raise LookupError("no Linear outside the base model")
    return named[-1]


def set_head_float32(model: nn.Module) -> None:
    """Replace the head by a Float32Linear over the same parameters (names in the files stay as they are)."""
    name, module = find_head(model)
    if not isinstance(module, Float32Linear):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Float32Linear(module))
