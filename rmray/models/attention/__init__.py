"""Packed, prefix-shared attention, known to transformers by one name, with one kernel a kind of device. Called by
`backbone`.

A completion attends to its prompt and to itself; no mask of T x T is ever built. `plan` says which tokens attend to
which, `interface` is what transformers calls, and the kernels compute: `split` on CPUs, `varlen` on GPUs in half
precision, `flex` on GPUs else. All are exact.
"""

from rmray.models.attention.interface import CALL, PACKED_ATTENTION, NotPackableError, PlainCall, packed_attention
from rmray.models.attention.plan import PackedCall, longest_path, plan_attention

__all__ = [
    "CALL",
    "PACKED_ATTENTION",
    "NotPackableError",
    "PackedCall",
    "PlainCall",
    "longest_path",
    "packed_attention",
    "plan_attention",
]
