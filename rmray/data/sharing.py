"""Let groups that begin alike share their beginning, whoever sent them. No tensors. Called by scorers before a forward.

K completions of one request share their prompt by themselves (`group`). Callers that send one completion each, or the
samples of one prompt in several requests, share it only where their requests meet in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmray.data.group import TokenGroup

MIN_SAVED = 0.05
"""A group joins others where that saves this part of its tokens. Below, the second attention costs what they save."""


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Groups, by number, whose paths all begin with the same `shared` tokens.

    path_tokens: of all their paths, each counted whole.
    """

    members: tuple[int, ...]
    shared: int
    num_paths: int
    path_tokens: int

    @property
    def num_tokens(self) -> int:
        """What a forward computes where only these are shared."""
        return self.path_tokens - (self.num_paths - 1) * self.shared


def share_prefixes(groups: Sequence[TokenGroup]) -> tuple[list[TokenGroup], list[int]]:
    """Fewer groups of the same paths, and the order in which the given groups' paths now lie.

    The paths of one given group stay side by side and in their order. Where sharing saves too little the groups come
    back as they are.
    """
    clusters = _find_clusters(groups)
    if len(clusters) == len(groups):
        return list(groups), list(range(len(groups)))
    return [_merge(groups, cluster) for cluster in clusters], [i for cluster in clusters for i in cluster.members]


def _find_clusters(groups: Sequence[TokenGroup]) -> list[_Cluster]:
    # In this order those that begin alike are neighbours, and what several share is what each shares with the next.
    in_order = sorted(range(len(groups)), key=lambda i: groups[i].prefix.tobytes())
    clusters: list[_Cluster] = []
    for n, i in enumerate(in_order):
        alone = _alone(i, groups[i])
        if n:
            last = clusters[-1]
            shared = min(last.shared, _num_common(groups[in_order[n - 1]], groups[i]))
            joined = _Cluster(
                (*last.members, i), shared, last.num_paths + alone.num_paths, last.path_tokens + alone.path_tokens
            )
            if last.num_tokens + alone.num_tokens - joined.num_tokens >= MIN_SAVED * alone.num_tokens:
                clusters[-1] = joined
                continue
        clusters.append(alone)
    return clusters


def _alone(i: int, group: TokenGroup) -> _Cluster:
    k, shared = group.num_completions, len(group.prefix)
    return _Cluster((i,), shared, k, group.num_tokens + (k - 1) * shared)


def _num_common(one: TokenGroup, other: TokenGroup) -> int:
    """Length of the common beginning of two prefixes."""
    limit = min(len(one.prefix), len(other.prefix))
    differs = np.flatnonzero(one.prefix[:limit] != other.prefix[:limit])
    return int(differs[0]) if len(differs) else limit


def _merge(groups: Sequence[TokenGroup], cluster: _Cluster) -> TokenGroup:
    members = [groups[i] for i in cluster.members]
    shared = cluster.shared
    return TokenGroup(
        members[0].prefix[:shared],
        tuple(np.concatenate([g.prefix[shared:], s]) for g in members for s in g.suffixes),
        tuple(n for g in members for n in g.prompt_lens),
        tuple(ends for g in members for ends in g.step_ends),
    )
