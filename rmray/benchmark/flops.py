"""Count floating-point operations, and measure what the device could do. Called by `train` and `score`.

Forward: 2 x inputs x outputs for each linear layer and token (a multiply and an add), and 4 x heads x head width for
each layer and (query, key) pair of attention: 2 for the product with the key, 2 for the sum over values. Norms, rotary
embedding, softmax and the optimizer are left out, as is usual (PaLM, Chowdhery et al. 2022, appendix B). Training takes
three forwards: the gradients of inputs and of weights cost one each. Gradient checkpointing runs the forward once more:
four (Korthikanti et al. 2022).

Executed: what the linear layers were given, counted in a run's first round, padding among it; and the pairs of
attention. A padded batch goes to attention with a mask, which computes every pair of its square; without padding, and
in rmray's own forward, only pairs that the causal mask lets through are counted, whatever the kernel computes beside
them. Utilisation is executed operations / time / peak. Useful MFU (after PaLM's) counts what is needed alone: every
prompt once, no padding, no recomputation, and the last layer's feed-forward where a score is read.

Legend: T tokens, K completions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rmray.data.group import TokenGroup

TRAINING_PASSES = 3
CHECKPOINTED_PASSES = 4
PEAK_REPEATS = 5
PEAK_SHAPES = {
    "cpu": ((1024, 1024, 1024), (2048, 512, 1536), (2048, 2048, 2048)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096)),
}
"""Matrix products tried for the peak: [m, k] x [k, n]."""


@dataclass(frozen=True, slots=True)
class Work:
    """What forwards computed. tokens: through the layers. attended: (query, key) pairs of one head of one layer.
    linear: operations of all linear layers."""

    tokens: int = 0
    attended: int = 0
    linear: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.attended + other.attended, self.linear + other.linear)


def padded_work(rows: int, width: int, *, padded: bool) -> Work:
    """Tokens and pairs of plain transformers on [rows, width] tokens. padded: some of them are padding, so that
    attention gets a mask."""
    return Work(rows * width, rows * (width * width if padded else width * (width + 1) // 2))


def shared_work(prefix: int, suffixes: Sequence[int]) -> Work:
    """Tokens and pairs of a group with its prompt once: each completion on it, causal pairs alone."""
    pairs = prefix * (prefix + 1) // 2 + sum(n * prefix + n * (n + 1) // 2 for n in suffixes)
    return Work(prefix + sum(suffixes), pairs)


def batch_work(lengths: Sequence[tuple[int, Sequence[int]]], *, packed: bool) -> Work:
    """Tokens and pairs of rmray's forward of a batch. lengths: of each group's prompt and completions. packed: False
    where it pads every path of its own."""
    if packed:
        return sum((shared_work(prefix, suffixes) for prefix, suffixes in lengths), Work())
    paths = [prefix + n for prefix, suffixes in lengths for n in suffixes]
    return padded_work(len(paths), max(paths), padded=len(set(paths)) > 1) if paths else Work()


def lengths_of(groups: Iterable[TokenGroup]) -> list[tuple[int, list[int]]]:
    """Tokens of each group's prompt and of its completions."""
    return [(len(g.prefix), [len(s) for s in g.suffixes]) for g in groups]


def needed_work(model: Any, groups: Sequence[TokenGroup]) -> Work:
    """What has to be computed for some groups, and no more: in the last layer's feed-forward and in the head, only
    tokens that a score is read from."""
    work = batch_work(lengths_of(groups), packed=True)
    everywhere = _linear_cost(model.base_model)
    at_the_end = _linear_cost(model.base_model.layers[-1].mlp)
    num_scores = sum(g.num_completions for g in groups)
    linear = (everywhere - at_the_end) * work.tokens + (at_the_end + _linear_cost(model.score)) * num_scores
    return Work(work.tokens, work.attended, linear)


def forward_operations(model: Any, work: Work) -> int:
    """Operations of forwards, attention among them."""
    return work.linear + _attention(model, work)


def training_operations(model: Any, work: Work, *, checkpointing: bool = False) -> int:
    """Operations of forwards and backwards. checkpointing: the linear layers were counted when recomputed too."""
    if checkpointing:
        return CHECKPOINTED_PASSES * (work.linear // 2 + _attention(model, work))
    return TRAINING_PASSES * forward_operations(model, work)


def _attention(model: Any, work: Work) -> int:
    config = model.config.get_text_config()
    pairs: int = 4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers * work.attended
    return pairs


def _linear_cost(module: Any) -> int:
    """Operations of a module's linear layers for one token."""
    from torch import nn

    return sum(2 * m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))


def measure_peak(
    device: str, dtype: Any, *, shapes: Sequence[tuple[int, int, int]] | None = None, repeats: int = PEAK_REPEATS
) -> float:
    """The best rate of a plain matrix product, in operations a second: over a few shapes, the median of `repeats`."""
    import torch

    rates = []
    for m, k, n in shapes or PEAK_SHAPES[device]:
        left, right = (torch.randn(size, device=device, dtype=dtype) for size in ((m, k), (k, n)))
        out = left @ right  # warms up
        seconds = []
        for _ in range(repeats):
            synchronize(device)
            start_s = time.perf_counter()
            torch.matmul(left, right, out=out)
            synchronize(device)
            seconds.append(time.perf_counter() - start_s)
        rates.append(2 * m * k * n / statistics.median(seconds))
    return max(rates)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


class LinearMeter:
    """Counts the operations of a model's linear layers while it is entered, recomputed ones too."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.operations = 0

    def __enter__(self) -> LinearMeter:
        from torch import nn

        layers = [m for m in self._model.modules() if isinstance(m, nn.Linear)]
        self._hooks = [layer.register_forward_pre_hook(self._listen) for layer in layers]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _listen(self, layer: Any, args: tuple[Any, ...]) -> None:
        self.operations += 2 * args[0].numel() * layer.out_features


class PlainMeter(LinearMeter):
    """Counts all that plain transformers computes: listens to the model's forwards too."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._calls: list[tuple[int, int, Any]] = []

    def __enter__(self) -> PlainMeter:
        super().__enter__()
        self._hooks.append(self._model.register_forward_pre_hook(self._listen_whole, with_kwargs=True))
        return self

    def _listen_whole(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, width = kwargs["input_ids"].shape
        mask = kwargs.get("attention_mask")
        # Read later: on a GPU the answer would have to be waited for.
        self._calls.append((rows, width, None if mask is None else mask.all()))

    def work(self) -> Work:
        """Of all forwards so far."""
        total = Work(linear=self.operations)
        for rows, width, full in self._calls:
            total += padded_work(rows, width, padded=full is not None and not bool(full))
        return total
