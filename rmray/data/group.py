"""A prompt and its K completions as token ids, the common prefix stored once. Made by `render`, used by all.

The shared prefix is the longest common prefix of token ids of the K rendered texts, so it may reach into the
completions; `prompt_lens` says where each completion begins in its own path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """prefix [P] int32, suffixes K x [R_k >= 1] int32; path k is prefix + suffixes[k]; prompt_lens K ints.

    step_ends: for each path the places of the tokens that end its steps, ascending; empty where nobody asked for steps.
    """

    prefix: Ids
    suffixes: tuple[Ids, ...]
    prompt_lens: tuple[int, ...]
    step_ends: tuple[tuple[int, ...], ...] = ()

    @property
    def num_completions(self) -> int:
        return len(self.suffixes)

    @property
    def num_tokens(self) -> int:
        """Tokens that a forward with a shared prefix computes: P + sum of R_k."""
        return len(self.prefix) + sum(len(s) for s in self.suffixes)

    @property
    def num_path_tokens(self) -> int:
        """Tokens of the K paths, each whole."""
        return self.num_tokens + (self.num_completions - 1) * len(self.prefix)

    @property
    def max_path_len(self) -> int:
        return len(self.prefix) + max(len(s) for s in self.suffixes)

    def path(self, k: int) -> Ids:
        """Token ids of prompt and completion k, as the tokenizer gave them."""
        return np.concatenate([self.prefix, self.suffixes[k]])


def group_paths(
    paths: Sequence[Sequence[int]], prompt_lens: Sequence[int], step_ends: Sequence[Sequence[int]] = ()
) -> TokenGroup:
    """Find the common prefix of K token paths. At least one token of each path stays in its suffix."""
    arrays = [np.asarray(p, dtype=np.int32) for p in paths]
    limit = min(len(a) for a in arrays) - 1
    if limit < 0:
        raise ValueError("a path has no token")
    shared = limit
    for other in arrays[1:]:
        differs = np.flatnonzero(arrays[0][:shared] != other[:shared])
        if len(differs):
            shared = int(differs[0])
    return TokenGroup(
        arrays[0][:shared],
        tuple(a[shared:] for a in arrays),
        tuple(int(n) for n in prompt_lens),
        tuple(tuple(int(n) for n in ends) for ends in step_ends),
    )
