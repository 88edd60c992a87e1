"""What a forward takes: base_s + token_s x tokens + pair_s x attended pairs. Called by `replica`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from rmray.benchmark.shapes import SHAPES, Shape

PAIRS_PAY_FROM = 0.9
"""Attended pairs stay in a fit where they bring its error under this share of what it is without them."""


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Seconds of a forward. errors: what forwards took over that, each as likely as the other; none is 1 always.

    measured: False where the numbers are assumed. note: where they come from.
    """

    name: str
    base_s: float
    token_s: float
    pair_s: float = 0.0
    errors: tuple[float, ...] = ()
    measured: bool = False
    note: str = ""

    def seconds(self, tokens: float, pairs: float) -> float:
        """Of a forward of so many tokens and attended (query, key) pairs, without an error."""
        return self.base_s + self.token_s * tokens + self.pair_s * pairs

    @property
    def spread(self) -> float:
        """Standard deviation of the errors."""
        return float(np.std(self.errors)) if self.errors else 0.0


def fit_cost(
    name: str, tokens_N: Sequence[float], pairs_N: Sequence[float], seconds_N: Sequence[float], *, note: str = ""
) -> ForwardCost:
    """The cost that fits N measured forwards with the least relative error; no term is negative. Errors are 1 on
    average: `seconds` is what a forward takes on average, as in `assumed_cost`."""
    from scipy.optimize import nnls

    seconds = np.asarray(seconds_N, dtype=np.float64)
    columns = np.stack([np.ones_like(seconds), np.asarray(tokens_N, float), np.asarray(pairs_N, float)], axis=1)
    scale = columns.max(axis=0)
    relative = columns / scale / seconds[:, None]
    fits = []
    for terms in (2, 3):
        weights, _ = nnls(relative[:, :terms], np.ones_like(seconds))
        errors_N = 1 / (relative[:, :terms] @ weights)
        fits.append((weights / scale[:terms], errors_N, float(np.mean((1 / errors_N - 1) ** 2))))
    plain, paired = fits
    terms_, errors_N, _ = paired if paired[2] < PAIRS_PAY_FROM**2 * plain[2] else plain
    mean = float(errors_N.mean())  # over 1, the more the further forwards spread: the fit is of their inverse
    base_s, token_s, pair_s = [*(mean * terms_).tolist(), 0.0][:3]
    return ForwardCost(name, base_s, token_s, pair_s, tuple((errors_N / mean).tolist()), measured=True, note=note)


def assumed_cost(
    name: str, shape: Shape, *, peak_flops: float, utilisation: float, base_s: float, spread: float
) -> ForwardCost:
    """Operations as in `flops`, at a constant share of a device's peak. Errors are normal, of that spread."""
    heads = shape.num_attention_heads * shape.head_dim
    weights = shape.hidden_size * (2 * heads + 2 * shape.num_key_value_heads * shape.head_dim)
    weights += 3 * shape.hidden_size * shape.intermediate_size
    layers_per_s = peak_flops * utilisation / shape.num_hidden_layers
    errors = tuple(1 + spread * NormalDist().inv_cdf((i + 0.5) / 20) for i in range(20)) if spread else ()
    note = f"assumed: {utilisation:.0%} of {peak_flops / 1e12:.0f} TFLOP/s, {1000 * base_s:g} ms a forward"
    return ForwardCost(name, base_s, 2 * weights / layers_per_s, 4 * heads / layers_per_s, errors, note=note)


def assumed_h100(model: str) -> ForwardCost:
    """A model of SHAPES on an H100 in bf16: what nobody measured, of the size that it should have."""
    return assumed_cost(
        f"{model} on an H100", SHAPES[model], peak_flops=989e12, utilisation=0.4, base_s=0.02, spread=0.03
    )
