"""Hashes that name prompts and pairs, and what follows from them: held-out prompts and windows. Pure; seed-free.

Called by `staging` (keys of a row) and `prepare` (split and layout). All hashes are 64 bits wide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rmray.data.prepared import WINDOW_ROWS
from rmray.errors import DataError
from rmray.schema import Comparison, Content, OutcomeExample, Record, Steps, TokenIds, is_blank

Keys = npt.NDArray[np.uint64]
_HASHES = 2**64


def prompt_key(record: Record) -> int:
    """Names the prompt: rows with the same one share a split, a window and a step.

    A lone user message is the same prompt as its text. Where the prompt is blank, rows have nothing in common: the
    completions stand in for it.
    """
    prompt: Any = record.prompt
    if is_blank(prompt):
        return hash64(["completions", sorted(_plain(c) for c in _completions(record))])
    if isinstance(prompt, tuple) and len(prompt) == 1 and prompt[0]["role"] == "user":
        prompt = prompt[0]["content"] if isinstance(prompt[0]["content"], str) else prompt
    return hash64(_plain(prompt))


def pair_keys(record: Record) -> tuple[int, int]:
    """(which completions the row has, what it tells of them): equal first numbers with other second ones contradict."""
    texts = [_plain(c) for c in _completions(record)]
    if not isinstance(record, Comparison):
        told = [int(record.label)] if isinstance(record, OutcomeExample) else list(record.labels)
        return hash64(texts), hash64([texts, told])
    order = sorted(range(len(texts)), key=lambda k: texts[k])
    texts = [texts[k] for k in order]
    return hash64(texts), hash64([texts, [record.ranks[k] for k in order]])


def _completions(record: Record) -> tuple[Content, ...]:
    if isinstance(record, Comparison):
        return record.completions
    return (record.completion,) if isinstance(record, OutcomeExample) else (record.steps,)


def stored_order(row_id: str, num_completions: int) -> list[int]:
    """In which order K completions are stored: pairs as they are, longer lists shuffled by a hash of the row, so that
    no place in the list is the better one."""
    if num_completions == 2:
        return [0, 1]
    return sorted(range(num_completions), key=lambda k: hash64([row_id, k]))


def _plain(content: Content) -> str:
    """One text for each content, the same whatever the order of a message's keys."""
    if isinstance(content, str):
        return "text:" + content.strip()
    if isinstance(content, TokenIds):
        return "ids:" + ",".join(map(str, content.ids))
    if isinstance(content, Steps):
        return "steps:" + json.dumps(content.texts)
    return "chat:" + json.dumps(content, sort_keys=True, default=dict)


def hash64(value: Any) -> int:
    """64-bit hash of what JSON can write."""
    return int.from_bytes(hashlib.blake2b(json.dumps(value).encode(), digest_size=8).digest(), "big")


def split_hashes(prompt_keys: Keys) -> Keys:
    """A second hash of each key, independent of the layout, that decides who is held out (splitmix64's finish)."""
    x = prompt_keys.astype(np.uint64, copy=True)
    x += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def holdout_limit(prompt_keys: Keys, holdout: float | None) -> int:
    """Prompts whose split hash lies below this are held out. prompt_keys: distinct.

    holdout: a share (< 1) or a count (>= 1) of prompts; None holds nothing out. Raises DataError where nothing would
    be left to train on.
    """
    if holdout is None or not len(prompt_keys):
        return 0
    count = int(holdout) if holdout >= 1 else max(1, round(holdout * len(prompt_keys)))
    if count >= len(prompt_keys):
        raise DataError(
            f"holding out {count} of {len(prompt_keys)} prompts leaves nothing to train on",
            where="data.holdout",
            next_step="hold out fewer prompts, or give more rows",
        )
    hashes = split_hashes(prompt_keys)
    return int(np.partition(hashes, count)[count])


def window_bounds(num_rows: int) -> list[int]:
    """Edges of the windows' hash ranges: window w holds the prompt keys in [bounds[w], bounds[w + 1])."""
    num_windows = max(1, -(-num_rows // WINDOW_ROWS))
    return [-(-w * _HASHES // num_windows) for w in range(num_windows + 1)]


def window_edges(bounds: Sequence[int], keys: Keys) -> list[int]:
    """Where each window begins and ends among sorted keys: len(bounds) indices."""
    inner = np.array(list(bounds[1:-1]), dtype=np.uint64)
    return [0, *np.searchsorted(keys, inner, side="left").tolist(), len(keys)]
