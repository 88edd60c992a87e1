"""Small flat batches of random tokens and comparisons of gradients. Used by the models' tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rmray.data.batch import FlatBatch, build_batch
from rmray.data.group import TokenGroup

SHAPES = ((17, (5, 9, 1)), (0, (6,)), (8, (7, 7)), (1, (3, 2)), (4, (1, 1)))
"""(prefix length, completion lengths) of groups that take every branch of the packed attention."""


def random_groups(
    vocab_size: int, shapes: Sequence[tuple[int, Sequence[int]]] = SHAPES, *, seed: int = 0
) -> list[TokenGroup]:
    """Groups of these shapes, without the token ids 0 to 2 (pad, bos, eos)."""
    rng = np.random.default_rng(seed)

    def ids(n: int) -> np.ndarray:
        return rng.integers(3, vocab_size, n).astype(np.int32)

    return [TokenGroup(ids(p), tuple(ids(r) for r in rs), (p // 2,) * len(rs)) for p, rs in shapes]


def random_batch(
    vocab_size: int,
    shapes: Sequence[tuple[int, Sequence[int]]] = SHAPES,
    *,
    pooling: str = "last",
    seed: int = 0,
) -> FlatBatch:
    """The groups of `random_groups` as one batch."""
    return build_batch(random_groups(vocab_size, shapes, seed=seed), pooling=pooling)


def gradient_distance(module: torch.nn.Module, reference: torch.nn.Module) -> float:
    """Largest relative distance of two modules' gradients, parameter by parameter.

    A gradient that is zero but for rounding (a key's bias, say) is measured against a thousandth of the whole.
    """
    pairs = list(zip(module.parameters(), reference.parameters(), strict=True))
    assert all((a.grad is None) == (b.grad is None) for a, b in pairs)
    grads = [(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None]
    whole = float(torch.stack([b.norm() for _, b in grads]).norm())
    return max(float((a - b).norm()) / max(float(b.norm()), 1e-3 * whole) for a, b in grads)
