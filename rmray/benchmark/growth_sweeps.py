"""What the growth benchmark varies: model size, path length, K and the prompt's share. Measured by `growth`.

Legend: P tokens of a prompt, R of a completion, K completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rmray.benchmark.shapes import SHAPES, Shape
from rmray.benchmark.workloads import Workload

GROWTH_SHAPES = {
    "1m": Shape(128, 3, 384, 2, 1, 64, 4000),
    "5m": SHAPES["5m"],
    "30m": SHAPES["30m"],
    "80m": Shape(768, 10, 2304, 12, 6, 64, 8000),
    **{name: shape for name, shape in SHAPES.items() if name.endswith("b")},
}
"""SHAPES and some between them, so that growth is seen on a CPU too."""


@dataclass(frozen=True, slots=True)
class Point:
    """One cell to measure. x: what the sweep varies. workload: of `groups` groups, its K within."""

    x: float
    workload: Workload
    model: str = "5m"
    groups: int = 8


def _alike(name: str, prompt: float, completion: float, completions: int = 2) -> Workload:
    """Lengths that are all alike: padding, which only helps packed, is no part of what is shown."""
    return Workload(name, max(1.0, prompt), completion, completions, sigma=0.0)


def _sweeps(
    models: Sequence[str], lengths: Sequence[int], ks: Sequence[int], shares: Sequence[float], model: str, groups: int
) -> dict[str, tuple[Point, ...]]:
    """Multi-turn lengths over models; 3/4 of a path are prompt over lengths; P 512, R 64 over K; paths of 256 tokens
    over the prompt's share."""
    return {
        "model": tuple(Point(i, _alike("multi-turn", 125, 45), name, groups) for i, name in enumerate(models)),
        "length": tuple(Point(n, _alike(f"{n} tokens", 0.75 * n, 0.25 * n), model, groups) for n in lengths),
        "K": tuple(Point(k, _alike(f"K {k}", 512, 64, k), model, max(1, groups // 2)) for k in ks),
        "prompt share": tuple(Point(s, _alike(f"{s:.0%}", s * 256, (1 - s) * 256), model, groups) for s in shares),
    }


SWEEPS = _sweeps(
    ("1m", "5m", "30m", "80m"),
    (64, 128, 256, 512, 1024, 2048),
    (1, 2, 4, 8, 16),
    (0, 0.1, 0.25, 0.5, 0.75, 0.9),
    "5m",
    8,
)
QUICK_SWEEPS = _sweeps(("1m", "5m"), (64, 256), (1, 4), (0, 0.9), "1m", 2)
