"""What a forward takes: base_s + token_s x tokens + pair_s x attended pairs, fitted or assumed. Called by `simulation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmray.benchmark.shapes import Shape

PAIRS_PAY_FROM = 0.9
"""Attended pairs stay in a fit where they bring its error under this share of what it is without them."""


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Seconds of a forward. spread: standard deviation around it, as a share of it; what a real machine adds.

    measured: False where the numbers are assumed. note: where they come from.
    """

    name: str
    base_s: float
    token_s: float
    pair_s: float = 0.0
    spread: float = 0.0
    measured: bool = False
    note: str = ""

    def seconds(self, tokens: float, pairs: float) -> float:
        """Of a forward of so many tokens and attended (query, key) pairs, without the spread."""
        return self.base_s + self.token_s * tokens + self.pair_s * pairs


def fit_cost(
    name: str, tokens_N: Sequence[float], pairs_N: Sequence[float], seconds_N: Sequence[float], *, note: str = ""
) -> ForwardCost:
    """The cost that fits N measured forwards with the least relative error; no term is negative."""
    from scipy.optimize import nnls

    seconds = np.asarray(seconds_N, dtype=np.float64)
    columns = np.stack([np.ones_like(seconds), np.asarray(tokens_N, float), np.asarray(pairs_N, float)], axis=1)
    scale = columns.max(axis=0)
    relative = columns / scale / seconds[:, None]
    fits = []
    for terms in (2, 3):
        weights, _ = nnls(relative[:, :terms], np.ones_like(seconds))
        errors = relative[:, :terms] @ weights - 1
        fits.append(([*(weights / scale[:terms]), *[0.0] * (3 - terms)], float(np.sqrt(np.mean(errors**2)))))
    plain, paired = fits
    (base_s, token_s, pair_s), spread = paired if paired[1] < PAIRS_PAY_FROM * plain[1] else plain
    return ForwardCost(name, float(base_s), float(token_s), float(pair_s), spread, measured=True, note=note)


def assumed_cost(
    name: str, shape: Shape, *, peak_flops: float, utilisation: float, base_s: float, spread: float
) -> ForwardCost:
    """Operations as in `flops`, at a constant share of a device's peak."""
    heads = shape.num_attention_heads * shape.head_dim
    weights = shape.hidden_size * (2 * heads + 2 * shape.num_key_value_heads * shape.head_dim)
    weights += 3 * shape.hidden_size * shape.intermediate_size
    layers_per_s = peak_flops * utilisation / shape.num_hidden_layers
    note = f"assumed: {utilisation:.0%} of {peak_flops / 1e12:.0f} TFLOP/s, {1000 * base_s:g} ms a forward"
    return ForwardCost(name, base_s, 2 * weights / layers_per_s, 4 * heads / layers_per_s, spread, note=note)
